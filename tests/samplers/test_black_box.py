"""The black-box ODE solver of the probability flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import samplers
from sde_diffusion.samplers.per_sample import jacobian_one

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SDE = sd.VP()


def problem():
    """A Gaussian, where to start, and from when to when, in the precision that is on."""
    exact = sd.analytic.Gaussian.of(jnp.array([0.7, -0.4]), jnp.array([0.8, 0.1]))
    return exact, jnp.array([[1.3, -0.2], [-0.5, 0.9]]), jnp.array([1.0, 1e-3])


def solve(solver, model=None, start=None, cond=None):
    exact, x, grid = problem()
    return sd.sample(
        jax.random.key(0),
        exact.model(SDE) if model is None else model,
        x.shape,
        solver=solver,
        grid=grid,
        cond=cond,
        x_init=x if start is None else start,
        denoise_last=False,
    )


def closed_form():
    """The end of the flow, and its derivative in each dimension of the start."""
    # (x - alpha mean) / std is constant along the flow of a Gaussian
    exact, x, grid = problem()
    (a, s), (b, r) = ((SDE.alpha(t), SDE.sigma(t)) for t in grid)
    spread = jnp.sqrt((b**2 * exact.variances + r**2) / (a**2 * exact.variances + s**2))
    return b * exact.mean + spread * (x - a * exact.mean), spread


@pytest.mark.parametrize("method", samplers.BlackBox.methods)
def test_error_falls_with_the_tolerance(method):
    with jax.enable_x64(True):
        end, _ = closed_form()
        for tolerance in (1e-5, 1e-8):
            solver = samplers.BlackBox(method, rtol=tolerance, atol=tolerance)
            assert np.max(np.abs(solve(solver).x - end)) < 100 * tolerance


@pytest.mark.parametrize("method", samplers.BlackBox.methods)
def test_evaluations_are_the_calls(method):
    calls = []
    exact = problem()[0].model(SDE)

    def counted(params, sde, x, t, cond):
        jax.debug.callback(lambda: calls.append(1))
        return exact(x, t)

    nfe = solve(samplers.BlackBox(method), sd.Model(SDE, counted)).nfe
    jax.effects_barrier()
    assert nfe.shape == (2,)
    assert np.max(nfe) == len(calls)


def test_each_sample_keeps_its_own_condition():
    def denoise(x, t, cond):
        return jnp.full_like(x, 1.0) * cond[:, None]

    made = solve(samplers.BlackBox(), sd.from_x0(SDE, denoise), cond=jnp.array([2.0, -3.0])).x
    np.testing.assert_allclose(made[0], 2.0, atol=0.2)
    np.testing.assert_allclose(made[1], -3.0, atol=0.2)


def test_a_sample_that_needs_more_steps_than_allowed_is_nan():
    assert np.all(np.isnan(solve(samplers.BlackBox(max_steps=3)).x))


@pytest.mark.parametrize("event", [(3,), (2, 2, 1)])
def test_the_jacobian_of_one_sample_is_that_of_its_velocity(event):
    scale = jnp.arange(1.0, 3.0)

    def mixed(x, t, cond):
        turned = jnp.roll(x.reshape(len(x), -1), 1, axis=1).reshape(x.shape)
        return jnp.sin(x) * turned * cond.reshape(-1, *[1] * (x.ndim - 1))

    model = sd.from_v(SDE, mixed)
    x = jax.random.normal(jax.random.key(0), (2, *event))
    t = jnp.array([0.3, 0.8])
    made = jax.vmap(lambda x, t, c: jacobian_one(2)(model, x[None], t, c[None]))(x, t, scale)
    whole = jax.jacrev(lambda x: model(x, t, scale).velocity)(x)
    for i in range(2):
        own = whole[(i, *[slice(None)] * len(event), i)]
        np.testing.assert_allclose(made[i], own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5"])
def test_has_a_gradient_in_its_start(method):
    with jax.enable_x64(True):
        _, spread = closed_form()
        solver = samplers.BlackBox(method, rtol=1e-8, atol=1e-8)
        made = jax.grad(lambda x: jnp.sum(solve(solver, start=x).x))(problem()[1])
        np.testing.assert_allclose(made, jnp.broadcast_to(spread, made.shape), rtol=1e-5)


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5"])
def test_says_that_it_has_no_gradient_of_its_model(method):
    def end(mean):
        model = sd.analytic.Gaussian.of(mean, jnp.ones(2)).model(SDE)
        return jnp.sum(solve(samplers.BlackBox(method), model).x)

    with pytest.raises(NotImplementedError, match="no gradient of its model"):
        jax.grad(end)(jnp.zeros(2))
