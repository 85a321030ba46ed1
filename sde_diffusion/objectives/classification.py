"""Classification of noisy samples: what a classifier for guidance is trained on.

    E_t [ -log p(c | x_t, t) ],   x_t = alpha x_0 + sigma eps,   p = softmax(logits(x_t, t))

The minimum is the exact p(c | x_t) at every t. Dhariwal & Nichol 2021, sec. 4, train theirs so.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion.objectives import time_density
from sde_diffusion.objectives.objective import Metrics, Objective
from sde_diffusion.sdes import SDE, Array, expand

UNIFORM = time_density.uniform()
Logits = Callable[[Array, Array], Array]


def classification_loss(
    key: Array,
    logits: Logits,
    sde: SDE,
    x0: Array,
    labels: Array,
    *,
    times: time_density.Times = UNIFORM,
    draw: time_density.Draw = time_density.independent,
) -> Array:
    """-log p(c | x_t) in nats, [B], for data x0 [B, *event] of the classes `labels` [B].

    Args:
        logits: logits(x [B, *event], t [B]) -> [B, C], as `guidance.classifier_guidance` takes it.
        sde: the SDE of the model that will be guided.
        times: the density of training times, and `draw` how they are drawn, as for
            `denoising_loss`.
    """
    return _loss(key, logits, sde, x0, labels, times, draw)[0]


def _loss(
    key: Array, logits: Logits, sde: SDE, x0: Array, labels: Array, times: Any, draw: Any
) -> tuple[Array, Array]:
    """The loss, and whether the greatest logit is that of the class, [B] both."""
    key_t, key_z = jax.random.split(key)
    t, ratio = times(sde, draw(key_t, len(x0)))
    mean, std = sde.marginal_prob(x0, t)
    x = mean + expand(std, x0) * jax.random.normal(key_z, x0.shape, x0.dtype)
    made = logits(x, t)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(made, axis=-1), labels[:, None], axis=-1)[:, 0]
    return -ratio * log_p, jnp.argmax(made, axis=-1) == labels


def classification_objective(
    logits: Callable[[Any, Array], Logits],
    sde: SDE,
    data: Callable[[Array, Any, Any], tuple[Array, Array]],
    *,
    times: time_density.Times = UNIFORM,
    draw: time_density.Draw = time_density.independent,
) -> Objective:
    """The objective of `classification_loss`, which reports the share of right classes, "accuracy".

    Args:
        logits: logits(params, key) is the classifier that is trained; the key is for dropout.
        data: data(key, batch, frozen) gives x0 [B, *event] and labels, integers [B].
    """

    def objective(
        params: Any, key: Array, batch: Any, *, frozen: Any, ema: tuple[Any, ...], step: Array
    ) -> tuple[Array, Metrics]:
        del ema, step
        key_data, key_dropout, key_loss = jax.random.split(key, 3)
        x0, labels = data(key_data, batch, frozen)
        loss, right = _loss(key_loss, logits(params, key_dropout), sde, x0, labels, times, draw)
        return loss, {"accuracy": jnp.mean(right.astype(jnp.float32))}

    return objective
