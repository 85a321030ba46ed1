"""Adversarial losses, and adversarial diffusion distillation (ADD).

A discriminator gives a logit l(x) for each sample, or several, one for each of its heads; p is the
distribution of the data, q the student's. With the logarithmic losses

    discriminator    E_q softplus(l(x)) + E_p softplus(-l(x)),    least at l = log p / q       (1)
    student          E_q softplus(-l(x))

as DMD2 has them, and with the hinge, as ADD has them

    discriminator    E_q max(0, 1 + l(x)) + E_p max(0, 1 - l(x)),  least at l = sign(p - q)     (2)
    student          -E_q l(x)

Goodfellow et al. 2014; Lim & Ye 2017 (the hinge).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sde_diffusion.model import Model
from sde_diffusion.objectives import time_density
from sde_diffusion.objectives.flow_map_loss import noised, squared
from sde_diffusion.objectives.objective import Metrics, Objective
from sde_diffusion.sdes import Array, Time

STUDENT, DISCRIMINATOR = "student", "discriminator"
TIMES = time_density.importance()

# (x [B, *event], t [B], cond) -> logits [B] or [B, heads, ...]
Discriminator = Callable[[Array, Array, Any], Array]


class Adversary(NamedTuple):
    """What the discriminator minimizes on data and on the student's samples, and the student.

    Each is a function of logits, element by element.
    """

    real: Callable[[Array], Array]
    made: Callable[[Array], Array]
    student: Callable[[Array], Array]


def logarithmic() -> Adversary:
    """The losses (1)."""
    return Adversary(lambda l: jax.nn.softplus(-l), jax.nn.softplus, lambda l: jax.nn.softplus(-l))


def hinge() -> Adversary:
    """The losses (2)."""
    return Adversary(lambda l: jax.nn.relu(1.0 - l), lambda l: jax.nn.relu(1.0 + l), jnp.negative)


ADVERSARIES: dict[str, Callable[[], Adversary]] = {"logarithmic": logarithmic, "hinge": hinge}


def judged(
    adversary: Adversary, discriminator: Discriminator, x: Array, t: Array, cond: Any, role: str
) -> Array:
    """The loss of the logits at x, [B]: the mean over heads. `role` is a field of Adversary."""
    losses = getattr(adversary, role)(discriminator(x, t, cond))
    return jnp.mean(losses, axis=tuple(range(1, losses.ndim)))


def adversarial_distillation_objective(
    student: Callable[[Any, Array], Model],
    discriminator: Callable[[Any, Array], Discriminator],
    data: Callable[[Array, Any, Any], tuple[Array, Any]],
    teacher: Callable[[Any], Model],
    *,
    starts: Array,
    times: time_density.Times = TIMES,
    adversary: Adversary | None = None,
    weight: float = 2.5,
    penalty: float = 1e-5,
) -> Objective:
    """The objective of {"student": ..., "discriminator": ...}, both of which it trains.

        student          E l_student(D(x)) + weight E alpha_t |x - sg teacher(x_t, t).x0|^2
        discriminator    (1) or (2), and penalty E |dD/dx|^2 at data

    where x = F(x_s, s, t_min) is the student's sample from noised data x_s at one of the times
    `starts`, all equally likely, and x_t is x noised anew.

    Args:
        student: student(params, key) is a model with a flow map.
        discriminator: discriminator(params, key) is D, which is called with samples without noise,
            at t_min.
        data: data(key, batch, frozen) gives x0 [B, *event] and its condition or None.
        teacher: teacher(frozen) is the teacher.
        starts: [S], the student's times of sampling, of which t_max should be one.
        times: of the noise for the teacher.
        adversary: the hinge unless given.
        weight, penalty: of the distillation, and of the gradient of D at data (R1).

    Sauer et al. 2023 (Adversarial diffusion distillation). The two weights, and alpha_t for the
    paper's c(t), are as we know them from the paper, but could not be looked up again. Its
    discriminator reads features of a frozen network (DINOv2) by a head each, and its
    penalty is that of the heads' inputs; here D and its penalty are of x.
    """
    rule = hinge() if adversary is None else adversary
    starts = jnp.asarray(starts)
    if starts.ndim != 1 or not len(starts):
        raise ValueError(f"starts must be times [S], got the shape {starts.shape}")

    def objective(
        params: Any, key: Array, batch: Any, *, frozen: Any, ema: tuple[Any, ...], step: Array
    ) -> tuple[Array, Metrics]:
        del ema, step
        key_data, key_dropout, key_s, key_zs, key_t, key_z = jax.random.split(key, 6)
        x0, cond = data(key_data, batch, frozen)
        trained, teaching = student(params[STUDENT], key_dropout), teacher(frozen)
        s = starts[jax.random.randint(key_s, x0.shape[:1], 0, len(starts))]
        x_s, _ = noised(key_zs, trained, x0, s)
        end: Time = trained.sde.t_min
        x = trained.flow_map(x_s, s, end, cond).x
        at_end = jnp.broadcast_to(jnp.asarray(end, s.dtype), s.shape)

        fixed = discriminator(jax.lax.stop_gradient(params[DISCRIMINATOR]), key_dropout)
        of_student = judged(rule, fixed, x, at_end, cond, "student")
        t, _ = times(trained.sde, time_density.independent(key_t, len(x)))
        noisy, _ = noised(key_z, trained, jax.lax.stop_gradient(x), t)
        wanted = jax.lax.stop_gradient(teaching(noisy, t, cond).x0)
        of_teacher = trained.sde.alpha(t) * squared(x, wanted)

        judge, made = discriminator(params[DISCRIMINATOR], key_dropout), jax.lax.stop_gradient(x)
        of_judge = judged(rule, judge, made, at_end, cond, "made")
        of_judge += judged(rule, judge, x0, at_end, cond, "real")
        slope = jax.grad(lambda x: jnp.sum(judge(x, at_end, cond)))(x0)
        steep = jnp.sum(slope**2, axis=tuple(range(1, x0.ndim)))
        metrics = {
            "adversarial_loss": jnp.mean(of_student),
            "distillation_loss": jnp.mean(of_teacher),
            "discriminator_loss": jnp.mean(of_judge),
        }
        return of_student + weight * of_teacher + of_judge + penalty * steep, metrics

    return objective
