"""Distribution matching on a Gaussian, where student, fake denoiser and teacher can be exact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sde_diffusion as sd
from sde_diffusion import objectives
from sde_diffusion.analytic import Gaussian
from sde_diffusion.prediction import Mapped
from sde_diffusion.sdes import expand

SDE = sd.EDM(t_min=0.02, t_max=10.0)
MEAN, STD = jnp.array([0.6, -0.4]), 0.5
EXACT = {"mean": MEAN, "log_std": jnp.log(STD)}


def denoiser(params, key):
    """The exact denoiser of N(mean, std^2 I)."""

    def x0(x, t):
        gain = jnp.exp(2 * params["log_std"]) / (jnp.exp(2 * params["log_std"]) + t**2)
        return params["mean"] + expand(gain, x) * (x - params["mean"])

    return sd.from_x0(SDE, x0)


def student(params, key):
    """x = mean + std z of noise z t_max: samples of N(mean, std^2 I)."""

    def mapping(params, sde, x, t, s, cond):
        return Mapped(params["mean"] + jnp.exp(params["log_std"]) * x / SDE.t_max)

    made = denoiser(params, key)
    return sd.Model(SDE, made.function, params, mapping)


def objective(**options):
    data = Gaussian.of(MEAN, STD**2)
    return objectives.distribution_matching_objective(
        student,
        denoiser,
        lambda key, batch, frozen: (batch, None),
        lambda _: data.model(SDE),
        **options,
    )


def gradient(params, step=0, num=50_000):
    def mean(params):
        loss, metrics = objective()(
            params, jax.random.key(0), jnp.zeros((num, 2)), frozen=None, ema=(), step=step
        )
        return jnp.mean(loss), metrics

    return jax.jit(jax.grad(mean, has_aux=True))(params)


def test_the_exact_student_and_its_exact_denoiser_are_stationary():
    found, metrics = gradient({"student": EXACT, "fake": EXACT})
    # The student's step is 0 at each sample, the fake denoiser's in the mean.
    for leaf in jax.tree.leaves(found["student"]):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-5)
    assert metrics["student_step"] < 1e-4
    wrong = {"mean": MEAN + 0.3, "log_std": jnp.log(STD) + 0.3}
    off, _ = gradient({"student": EXACT, "fake": wrong})
    for at_exact, away in zip(*(map(jax.tree.leaves, (found["fake"], off["fake"]))), strict=True):
        assert jnp.all(jnp.abs(at_exact) < 0.05 * jnp.abs(away))


def test_the_fake_denoisers_gradient_is_that_of_denoising_the_students_samples_alone():
    wrong = {"mean": MEAN + 0.3, "log_std": jnp.log(STD) - 0.4}
    found, _ = gradient({"student": wrong, "fake": EXACT}, step=0, num=100)
    between, _ = gradient({"student": wrong, "fake": EXACT}, step=1, num=100)
    for both, alone in zip(*map(jax.tree.leaves, (found["fake"], between["fake"])), strict=True):
        np.testing.assert_allclose(both, alone, rtol=1e-5)
    assert all(jnp.all(leaf == 0.0) for leaf in jax.tree.leaves(between["student"]))
    assert all(jnp.all(leaf != 0.0) for leaf in jax.tree.leaves(found["student"]))


def test_a_student_reaches_the_teachers_distribution():
    made = objective(every=2)
    start = {"mean": jnp.zeros(2), "log_std": jnp.zeros(())}
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, 600), b1=0.0)

    def update(state, step):
        params, moments = state

        def mean(params):
            key = jax.random.fold_in(jax.random.key(1), step)
            batch = jnp.zeros((256, 2))
            return jnp.mean(made(params, key, batch, frozen=None, ema=(), step=step)[0])

        updates, moments = optimizer.update(jax.grad(mean)(params), moments)
        return (optax.apply_updates(params, updates), moments), None

    params = {"student": start, "fake": start}
    scan = jax.jit(partial(jax.lax.scan, update))
    (params, _), _ = scan((params, optimizer.init(params)), jnp.arange(600))
    for who in ("student", "fake"):
        np.testing.assert_allclose(params[who]["mean"], MEAN, atol=0.03)
        np.testing.assert_allclose(jnp.exp(params[who]["log_std"]), STD, rtol=0.05)


def test_the_student_must_be_updated_at_times():
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        objective(every=0)
