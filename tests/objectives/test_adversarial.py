"""Discriminators against Gaussians, where the best one is log p / q."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import objectives
from sde_diffusion.analytic import Gaussian
from sde_diffusion.prediction import Mapped
from sde_diffusion.sdes import expand

SDE = sd.EDM(t_min=0.02, t_max=10.0)
STD, MEAN, OURS, NOISE = 0.5, 0.6, -0.2, 0.4
DATA = Gaussian.of(jnp.array([MEAN]), STD**2)


def at_one_level(sde, u):
    return jnp.full_like(u, NOISE), jnp.ones_like(u)


def student(params, key, centre=0.0):
    """x = mean + STD z of x_s = centre + t_max z."""

    def mapping(params, sde, x, t, s, cond):
        return Mapped(params["mean"] + STD * (x - centre) / SDE.t_max)

    model = sd.from_x0(SDE, lambda x, t: x)
    return sd.Model(SDE, model.function, params, mapping)


def denoiser(params, key):
    def x0(x, t):
        return params["mean"] + expand(STD**2 / (STD**2 + t**2), x) * (x - params["mean"])

    return sd.from_x0(SDE, x0)


def linear(params, key):
    return lambda x, t, cond: params["slope"] * x[:, 0] + params["at_0"]


def exact(variance):
    """The logit log p / q of N(MEAN, variance) to N(OURS, variance)."""
    slope = (MEAN - OURS) / variance
    return {"slope": jnp.array(slope), "at_0": jnp.array(-0.5 * slope * (MEAN + OURS))}


def gradient(objective, params, num=100_000):
    def mean(params):
        x0 = DATA.sample(jax.random.key(5), num)
        loss, _ = objective(params, jax.random.key(0), x0, frozen=None, ema=(), step=0)
        return jnp.mean(loss)

    return jax.jit(jax.grad(mean))(params)


def matching(of_student=0.0, of_discriminator=1.0):
    return objectives.distribution_matching_objective(
        student,
        denoiser,
        lambda key, batch, frozen: (batch, None),
        lambda frozen: DATA.model(SDE),
        times=at_one_level,
        discriminator=lambda params, key: linear(params["discriminator"], key),
        of_student_weight=of_student,
        of_discriminator_weight=of_discriminator,
    )


def test_the_best_discriminator_of_noisy_samples_is_the_log_ratio():
    ours = {"mean": jnp.array([OURS])}
    at = {"student": ours, "fake": ours, "discriminator": exact(STD**2 + NOISE**2)}
    best = gradient(matching(), at)["discriminator"]
    away = at | {"discriminator": jax.tree.map(lambda leaf: 0.5 * leaf + 0.3, at["discriminator"])}
    off = gradient(matching(), away)["discriminator"]
    for found, other in zip(jax.tree.leaves(best), jax.tree.leaves(off), strict=True):
        assert abs(found) < 0.006 < 0.05 < abs(other)


def test_the_students_adversarial_gradient_is_that_of_the_exact_log_ratio():
    """d/dm E softplus(-l(m + std z)) = -slope E sigmoid(-l), by quadrature."""
    ours, judge = {"mean": jnp.array([OURS])}, exact(STD**2 + NOISE**2)
    at = {"student": ours, "fake": ours, "discriminator": judge}
    with_it, without = (gradient(matching(w), at)["student"]["mean"] for w in (1.0, 0.0))
    z, weights = np.polynomial.hermite_e.hermegauss(60)
    logit = judge["slope"] * (OURS + np.hypot(STD, NOISE) * z) + judge["at_0"]
    exactly = -judge["slope"] * np.sum(weights * jax.nn.sigmoid(-logit)) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(with_it - without, exactly, rtol=0.01)
    assert exactly < 0.0  # towards the data, whose mean is larger


@pytest.mark.parametrize("name", ["logarithmic", "hinge"])
def test_what_a_discriminator_minimizes_at_a_point(name):
    """With p and q the densities there: log p / q, and the sign of p - q."""
    adversary, logits = objectives.ADVERSARIES[name](), jnp.linspace(-3.0, 3.0, 6001)
    for p, q in ((0.6, 0.2), (0.1, 0.5)):
        loss = p * adversary.real(logits) + q * adversary.made(logits)
        wanted = np.log(p / q) if name == "logarithmic" else np.sign(p - q)
        np.testing.assert_allclose(logits[jnp.argmin(loss)], wanted, atol=2e-3)
        assert jnp.all(jnp.diff(adversary.student(logits)) < 0.0)


def distilling(**options):
    return objectives.adversarial_distillation_objective(
        partial(student, centre=MEAN),
        linear,
        lambda key, batch, frozen: (batch, None),
        lambda frozen: DATA.model(SDE),
        starts=jnp.array([SDE.t_max]),
        times=at_one_level,
        **options,
    )


def test_the_gradient_of_adversarial_distillation_is_exact():
    """With the hinge the student's is -slope, and the teacher's is that of its denoiser."""
    at = {"student": {"mean": jnp.array([OURS])}, "discriminator": exact(STD**2)}
    # x - E[x0 | x + noise] = (1 - gain)(x - MEAN) - gain noise, times 2 in the mean square.
    gain = STD**2 / (STD**2 + NOISE**2)
    teaching = 2.0 * (1.0 - gain) * (OURS - MEAN)
    for weight in (0.0, 2.5):
        found = gradient(distilling(weight=weight), at)["student"]["mean"]
        exactly = -at["discriminator"]["slope"] + weight * teaching
        np.testing.assert_allclose(found, exactly, rtol=0.01)
        assert exactly < 0.0


def test_the_penalty_is_the_squared_slope_at_data():
    at = {"student": {"mean": jnp.array([OURS])}, "discriminator": exact(STD**2)}
    more, less = (gradient(distilling(penalty=p), at, 1000)["discriminator"] for p in (1.0, 0.0))
    exactly = 2.0 * at["discriminator"]["slope"]
    np.testing.assert_allclose(more["slope"] - less["slope"], exactly, rtol=1e-4)


def test_adversarial_distillation_needs_times_to_start_at():
    with pytest.raises(ValueError, match=r"starts must be times \[S\], got the shape \(\)"):
        objectives.adversarial_distillation_objective(
            student, linear, lambda *_: None, lambda _: None, starts=1.0
        )
