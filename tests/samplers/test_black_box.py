"""The black-box ODE solver of the probability flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import samplers

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


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5"])
def test_has_a_gradient_in_its_start(method):
    with jax.enable_x64(True):
        _, spread = closed_form()
        solver = samplers.BlackBox(method, rtol=1e-8, atol=1e-8)
        made = jax.grad(lambda x: jnp.sum(solve(solver, start=x).x))(problem()[1])
        np.testing.assert_allclose(made, jnp.broadcast_to(spread, made.shape), rtol=1e-5)


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5"])
def test_has_a_gradient_in_its_model_and_its_condition(method):
    with jax.enable_x64(True):
        solver = samplers.BlackBox(method, rtol=1e-8, atol=1e-8)
        *_, grid = problem()
        (a, s), (b, r) = ((SDE.alpha(t), SDE.sigma(t)) for t in grid)

        def towards(params, x, t, cond):
            return jnp.broadcast_to(params + cond[:, None], x.shape)

        def end(params, cond):  # data at one point m: x_s = b m + (x - a m) r / s
            from_network = sd.Model(SDE, of_x0, params)
            return solve(solver, from_network, cond=cond).x

        def of_x0(params, sde, x, t, cond):
            return sd.Prediction("x0", towards(params, x, t, cond), x, t, sde)

        cond = jnp.array([0.2, -0.1])
        by_params, by_cond = jax.jacrev(end, (0, 1))(jnp.float64(0.5), cond)
        slope = b - a * r / s
        np.testing.assert_allclose(by_params, jnp.full((2, 2), slope), rtol=1e-5)
        np.testing.assert_allclose(
            by_cond, slope * jnp.eye(2)[:, None] * jnp.ones((1, 2, 1)), rtol=1e-5, atol=1e-9
        )
