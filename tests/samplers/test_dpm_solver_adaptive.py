"""Adaptive DPM-Solver."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import noise, samplers
from sde_diffusion.sdes import KINDS

SDE = sd.VP()
EXACT = sd.analytic.Gaussian.of(jnp.array([0.7, -0.4]), jnp.array([0.8, 0.1]))
X = jnp.array([[1.3, -0.2], [-0.5, 0.9]])
ENDS = jnp.array([1.0, 1e-3])


def solve(solver, model=None, sde=SDE, grid=ENDS, x=X, cond=None):
    model = EXACT.model(sde) if model is None else model
    keys = noise.sample_keys(jax.random.key(0), len(x))
    x = jnp.asarray(x, grid.dtype)
    return jax.jit(lambda grid: solver.solve(keys, model, x, grid, cond))(grid)


def along_the_flow(x, t, s, sde=SDE):
    """(x - alpha mean) / std is constant along the flow of a Gaussian."""
    spread = [jnp.sqrt(sde.alpha(u) ** 2 * EXACT.variances + sde.sigma(u) ** 2) for u in (t, s)]
    return sde.alpha(s) * EXACT.mean + spread[1] / spread[0] * (x - sde.alpha(t) * EXACT.mean)


@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "edm", "cosine"])
def test_at_its_defaults_every_sample_ends_where_the_flow_does(name):
    sde = KINDS[name]()
    ends = jnp.array([sde.t_max, sde.t_min])
    x = sde.prior_sample(jax.random.key(3), (1000, 2))
    made = solve(samplers.AdaptiveDPMSolver(), sde=sde, grid=ends, x=x).x
    np.testing.assert_allclose(made, along_the_flow(x, *ends, sde), atol=0.02)


@pytest.mark.parametrize("name", ["subvp", "ve", "edm", "cosine", "flow"])
def test_every_sde_takes_the_steps_of_the_variance_preserving_one(name):
    # In x / sqrt(alpha^2 + sigma^2) against lambda all of these SDEs are one.
    with jax.enable_x64(True):
        ends, spent = [], []
        for sde in (SDE, KINDS[name]()):
            grid = sde.t_of_log_snr(jnp.array([-4.0, 3.0]))
            unit = jnp.hypot(sde.alpha(grid), sde.sigma(grid))
            made = solve(samplers.AdaptiveDPMSolver(), sde=sde, grid=grid, x=unit[0] * X)
            ends.append(made.x / unit[1])
            spent.append(made.nfe)
        np.testing.assert_allclose(*ends, rtol=1e-6)
        np.testing.assert_array_equal(*spent)


@pytest.mark.parametrize("order", [2, 3])
def test_error_falls_with_the_tolerance(order):
    with jax.enable_x64(True):
        ends = jnp.array([1.0, 1e-3])
        for tolerance in (1e-2, 1e-4):
            solver = samplers.AdaptiveDPMSolver(order, rtol=tolerance, atol=tolerance)
            made = solve(solver, grid=ends).x
            assert np.max(np.abs(made - along_the_flow(X, *ends))) < 5 * tolerance


def test_goes_to_the_noise_as_well():
    solver = samplers.AdaptiveDPMSolver(rtol=1e-3, atol=1e-3)
    made = solve(solver, grid=ENDS[::-1]).x
    np.testing.assert_allclose(made, along_the_flow(X, *ENDS[::-1]), atol=5e-3)


def dpm_solver_12_or_23(order, eps, x, rtol=0.05, atol=0.0078, h=0.05, theta=0.9):
    """The paper's adaptive algorithm with its pairs, for one sample in numpy."""

    def at(lam):
        t = float(SDE.t_of_log_snr(lam))
        return t, float(SDE.alpha(t)), float(SDE.sigma(t))

    lam, end = (float(SDE.log_snr(t)) for t in (1.0, 1e-3))
    before, nfe = x, 0
    while lam < end:
        h = min(h, end - lam)
        (t, a, _), (_, a_s, s_s) = at(lam), at(lam + h)
        r1 = 0.5 if order == 2 else 1 / 3
        e, (u, a_u, s_u) = eps(x, t), at(lam + r1 * h)
        d1 = eps(a_u / a * x - s_u * np.expm1(r1 * h) * e, u) - e
        first = a_s / a * x - s_s * np.expm1(h) * e
        second = first - s_s / (2 * r1) * np.expm1(h) * d1
        lower, higher = first, second
        if order == 3:
            r2, (v, a_v, s_v) = 2 / 3, at(lam + 2 / 3 * h)
            x_v = a_v / a * x - s_v * np.expm1(r2 * h) * e
            x_v = x_v - s_v * r2 / r1 * (np.expm1(r2 * h) / (r2 * h) - 1) * d1
            d2 = eps(x_v, v) - e
            lower, higher = second, first - s_s / r2 * (np.expm1(h) / h - 1) * d2
        nfe += order
        delta = np.maximum(atol, rtol * np.maximum(np.abs(lower), np.abs(before)))
        error = np.sqrt(np.mean(((higher - lower) / delta) ** 2))
        if error <= 1.0:
            x, before, lam = higher, lower, lam + h
        h = theta * h * error ** (-1 / order)
    return x, nfe


@pytest.mark.parametrize("order", [2, 3])
def test_each_sample_takes_the_steps_of_the_paper(order):
    with jax.enable_x64(True):
        model = EXACT.model(SDE)
        solver = samplers.AdaptiveDPMSolver(order, longest_step=math.inf)
        made = solve(solver, grid=jnp.array([1.0, 1e-3]))
        for x, end, nfe in zip(np.float64(X), made.x, made.nfe, strict=True):
            expected, evaluations = dpm_solver_12_or_23(
                order, lambda x, t: np.asarray(model(x[None], t).eps[0]), x
            )
            np.testing.assert_allclose(end, expected, rtol=1e-8)
            assert nfe == evaluations


def test_each_sample_keeps_its_own_condition():
    def denoise(x, t, cond):
        return jnp.full_like(x, 1.0) * cond[:, None]

    model, cond = sd.from_x0(SDE, denoise), jnp.array([2.0, -3.0])
    made = solve(samplers.AdaptiveDPMSolver(), model, cond=cond).x
    np.testing.assert_allclose(made[0], 2.0, atol=0.2)
    np.testing.assert_allclose(made[1], -3.0, atol=0.2)


def test_a_sample_that_needs_more_steps_than_allowed_is_nan():
    assert np.all(np.isnan(solve(samplers.AdaptiveDPMSolver(max_steps=3)).x))


def test_an_order_that_there_is_not_is_named():
    with pytest.raises(ValueError, match="takes order 2 or 3, got 1"):
        samplers.AdaptiveDPMSolver(order=1)


def test_a_start_at_alpha_zero_says_that_lambda_is_not_finite():
    flow = sd.Flow()
    with pytest.raises(ValueError, match="AdaptiveDPMSolver needs a finite log-SNR, but Flow"):
        sd.sample(
            jax.random.key(0),
            EXACT.model(flow),
            (2, 2),
            solver=samplers.AdaptiveDPMSolver(),
            grid=jnp.array([1.0, 1e-3]),
        )
