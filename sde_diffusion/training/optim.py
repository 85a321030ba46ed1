"""Optimizers and learning-rate schedules, from optax, chosen by name."""

import optax

from sde_diffusion.selection import choose


class Elementwise(optax.GradientTransformation):
    """An optimizer that treats every element alike, independently of the leaf that it is in.

    The training step may then stack small leaves of one shape and update them together. Adam has
    this property, also with clipping by the global norm. Weight decay with a mask that looks at
    `ndim` does not have it, because stacked leaves have one dimension more. Only `make_optimizer`
    returns this type: `optax.chain` of it is an ordinary optimizer, for which nothing is stacked.
    """

    __slots__ = ()


def make_schedule(
    schedule: str = "constant", *, lr: float, warmup: int = 0, total_steps: int
) -> optax.Schedule:
    """update -> learning rate: from 0 to `lr` in `warmup` updates, then constant or decaying to 0.

    `cosine` is lr (1 + cos(pi u)) / 2 with u from 0 after the warm-up to 1 at `total_steps`
    (Loshchilov & Hutter 2017, without restarts). Raises ValueError naming the field.
    """
    if lr <= 0:
        raise ValueError(f"lr: {lr} is not positive")
    if not 0 <= warmup < total_steps:
        raise ValueError(f"warmup: {warmup} is not in [0, total_steps = {total_steps})")
    after = choose(
        "schedule",
        schedule,
        {
            "constant": optax.constant_schedule(lr),
            "cosine": optax.cosine_decay_schedule(lr, total_steps - warmup),
        },
    )
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, lr, warmup), after], [warmup])


def make_optimizer(
    name: str = "adam",
    *,
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> Elementwise:
    """Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019), after clipping the gradient.

    `clip_norm` bounds the global norm of the gradient; None means no clipping. Raises ValueError
    that names the field, also for weight decay with `adam`, which has none.
    """
    for field, rate in {"b1": b1, "b2": b2}.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{field}: {rate} is not in [0, 1)")
    if eps <= 0:
        raise ValueError(f"eps: {eps} is not positive")
    if weight_decay < 0:
        raise ValueError(f"weight_decay: {weight_decay} is negative")
    if clip_norm is not None and clip_norm <= 0:
        raise ValueError(f"clip_norm: {clip_norm} is not positive (None for no clipping)")
    optimizer = choose(
        "optimizer",
        name,
        {
            "adam": optax.adam(learning_rate, b1, b2, eps),
            "adamw": optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay),
        },
    )
    if name == "adam" and weight_decay != 0:
        raise ValueError(f"weight_decay: {weight_decay} needs the optimizer 'adamw', not 'adam'")
    if clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    return Elementwise(*optimizer)
