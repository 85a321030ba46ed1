"""Distribution matching: a student whose samples have the teacher's distribution at every noise.

    d KL(p_student || p_teacher) / dx  at x_t  =  score_student - score_teacher            (1)

Neither the flow nor the pairing of noise and data is learned, only the distribution. The student's
score is not known, so a second denoiser, the fake one, is trained beside the student on its
samples. In terms of x0 a sample x of the student moves by

    fake(x_t, t) - teacher(x_t, t),    divided by the mean of |x - teacher(x_t, t)|         (2)

and the fake one learns by denoising x. Yin et al. 2024a (DMD); Yin et al. 2024b (DMD2), which
leaves out the regression on pairs and updates the student less often than the fake denoiser.

DMD2 adds a discriminator of noisy samples, by a head on the fake denoiser, with the logarithmic
losses of `adversarial`. So the student also learns from the data, and is not bound by what its
teacher does not know.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion.model import Model
from sde_diffusion.objectives import time_density
from sde_diffusion.objectives.adversarial import Adversary, Discriminator, judged, logarithmic
from sde_diffusion.objectives.denoising import denoising_loss
from sde_diffusion.objectives.flow_map_loss import noised
from sde_diffusion.objectives.objective import Metrics, Objective
from sde_diffusion.objectives.weighting import Weighting, edm
from sde_diffusion.sdes import Array, expand

STUDENT, FAKE = "student", "fake"
TIMES = time_density.importance()


def distribution_matching_objective(
    student: Callable[[Any, Array], Model],
    fake: Callable[[Any, Array], Model],
    data: Callable[[Array, Any, Any], tuple[Array, Any]],
    teacher: Callable[[Any], Model],
    *,
    times: time_density.Times = TIMES,
    weighting: Weighting | None = None,
    every: int = 5,
    discriminator: Callable[[Any, Array], Discriminator] | None = None,
    adversary: Adversary | None = None,
    of_student_weight: float = 3e-3,
    of_discriminator_weight: float = 1e-2,
) -> Objective:
    """The objective of the parameters {"student": ..., "fake": ...}, both of which it trains.

    With a discriminator there is a third entry, "discriminator", or its layers are some of the
    fake denoiser's.

    Args:
        student: student(params, key) is a model with a flow map, such as that of
            `from_flow_map_network`; its samples are made in one evaluation from noise.
        fake: fake(params, key) is a denoiser with the same SDE, which begins as the teacher.
        data: data(key, batch, frozen) gives x0 [B, *event] and its condition or None; without a
            discriminator only the shape of x0 is read.
        teacher: teacher(frozen) is the teacher.
        times: of the noise in (2), uniform in the log SNR unless given.
        weighting: of the fake denoiser's loss, EDM's unless given.
        every: the student's gradient is 0 except in every so many updates.
        discriminator: discriminator(params, key) gives logits of noisy samples; it is given all the
            parameters, as it may read the fake denoiser's layers.
        adversary: its losses, the logarithmic ones unless given.
        of_student_weight, of_discriminator_weight: of the student's adversarial loss and of the
            discriminator's; the values are those of DMD2's published run on ImageNet.

    The gradients do not mix: the fake denoiser takes none from (2), and its samples none from its
    loss. An optimizer with momentum also moves the student between its gradients. The metrics are
    the fake denoiser's loss and the size of the student's mean step (2).

    Raises ValueError unless every >= 1.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    weigh = edm() if weighting is None else weighting
    rule = logarithmic() if adversary is None else adversary

    def objective(
        params: Any, key: Array, batch: Any, *, frozen: Any, ema: tuple[Any, ...], step: Array
    ) -> tuple[Array, Metrics]:
        del ema
        key_data, key_dropout, key_start, key_t, key_z, key_fake = jax.random.split(key, 6)
        key_a, key_b, key_c = jax.random.split(jax.random.fold_in(key, 1), 3)
        x0, cond = data(key_data, batch, frozen)
        trained, sde = student(params[STUDENT], key_dropout), teacher(frozen).sde
        start = sde.sigma(sde.t_max) * jax.random.normal(key_start, x0.shape, x0.dtype)
        x = trained.flow_map(start, sde.t_max, sde.t_min, cond).x

        denoiser = fake(params[FAKE], key_dropout)
        t, _ = times(sde, time_density.independent(key_t, len(x)))
        noisy, _ = noised(key_z, trained, x, t)
        wanted = teacher(frozen)(noisy, t, cond).x0
        axes = tuple(range(1, x.ndim))
        size = jnp.mean(jnp.abs(x - wanted), axis=axes)
        change = denoiser(noisy, t, cond).x0 - wanted
        change = change / expand(jnp.maximum(size, 1e-6), x)
        target = jax.lax.stop_gradient(x - change)
        of_student = 0.5 * jnp.mean((x - target) ** 2, axis=axes)

        made = jax.lax.stop_gradient(x)
        of_fake = denoising_loss(key_fake, denoiser, made, cond=cond, weighting=weigh, times=times)
        metrics = {
            "fake_loss": jnp.mean(of_fake),
            "student_step": jnp.sqrt(jnp.mean(jax.lax.stop_gradient(change) ** 2)),
        }
        if discriminator is not None:
            t, _ = times(sde, time_density.independent(key_a, len(x)))
            noisy, _ = noised(key_b, trained, x, t)
            real, _ = noised(key_c, trained, x0, t)
            fixed = discriminator(jax.lax.stop_gradient(params), key_dropout)
            fooled = judged(rule, fixed, noisy, t, cond, "student")
            of_student = of_student + of_student_weight * fooled
            judge = discriminator(params, key_dropout)
            told = judged(rule, judge, jax.lax.stop_gradient(noisy), t, cond, "made")
            told = told + judged(rule, judge, real, t, cond, "real")
            of_fake = of_fake + of_discriminator_weight * told
            metrics |= {"adversarial_loss": jnp.mean(fooled), "discriminator_loss": jnp.mean(told)}
        return of_fake + jnp.where(step % every == 0, of_student, 0.0), metrics

    return objective
