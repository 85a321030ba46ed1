"""The solver of flow maps: exact with an exact map, and consistent with its paper's updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids, noise, samplers
from sde_diffusion.analytic import Gaussian
from sde_diffusion.comparison.problems import exact_problem

SDE = sd.EDM(t_min=0.01, t_max=20.0)
DATA = Gaussian.of(jnp.array([0.5, -0.3]), jnp.array([[0.3, 0.2], [0.2, 0.25]]))
MODEL = DATA.model(SDE)
KEY = jax.random.key(0)


def drawn(solver, steps=1, num=16, **options):
    grid = grids.karras(SDE, steps)
    return sd.sample(KEY, MODEL, (num, 2), solver=solver, grid=grid, **options)


def test_one_step_ends_where_the_exact_flow_does():
    one, many = (drawn(samplers.FlowMap(), steps, denoise_last=False) for steps in (1, 5))
    start = SDE.t_max * noise.normal(noise.fold_in(noise.sample_keys(KEY, 16), 0), one.x)
    expected = MODEL.flow_map(start, SDE.t_max, SDE.t_min).x
    np.testing.assert_allclose(one.x, expected, atol=1e-5)
    np.testing.assert_allclose(many.x, expected, atol=1e-5)
    assert (one.nfe, many.nfe) == (1, 5)


def test_the_last_step_leaves_no_noise():
    # A constant prediction of x0: the line ends there.
    constant = jnp.full((4, 2), 0.3)
    model = sd.Model(SDE, MODEL.function, DATA, to_constant)
    for solver in (samplers.FlowMap(), samplers.FlowMap(gamma=1.0)):
        made = sd.sample(KEY, model, (4, 2), solver=solver, grid=grids.karras(SDE, 3))
        np.testing.assert_allclose(made.x, constant, atol=1e-5)


def to_constant(params, sde, x, t, s, cond):
    ratio = sde.sigma(s) / sde.sigma(t)
    return sd.prediction.Mapped(ratio * x + (1.0 - ratio) * 0.3)


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_noise_is_that_of_the_paper(gamma):
    # sigma_u = sqrt(1 - gamma^2) s, and gamma s z beside it; for gamma = 1 from sigma_u = t_min.
    solver, keys = samplers.FlowMap(gamma=gamma), noise.sample_keys(KEY, 4)
    x, t, s = 3.0 * jnp.ones((4, 2)), jnp.float32(3.0), jnp.float32(2.0)
    model = samplers.Counted(MODEL)
    state = solver.init(x, jnp.array([3.0, 2.0, SDE.t_min]))
    made = solver.step(keys, model, state, t, s)
    u = max(np.sqrt(1.0 - gamma**2) * 2.0, SDE.t_min)
    z = noise.normal(noise.split(keys)[0], x)
    expected = MODEL.flow_map(x, t, u).x + np.sqrt(2.0**2 - u**2) * z
    np.testing.assert_allclose(made.x, expected, rtol=1e-4)
    assert model.calls == 1


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_samples_have_the_moments_of_the_data_for_every_gamma(gamma):
    x = drawn(samplers.FlowMap(gamma=gamma), 3, 20_000).x
    np.testing.assert_allclose(jnp.mean(x, axis=0), DATA.mean, atol=0.03)
    np.testing.assert_allclose(jnp.cov(x.T), DATA.covariance, atol=0.02)


def test_a_sample_depends_on_its_own_key_alone():
    for gamma in (0.0, 0.5):
        solver = samplers.FlowMap(gamma=gamma)
        some = drawn(solver, 2, 6, first=2).x
        np.testing.assert_allclose(some, drawn(solver, 2, 8).x[2:], rtol=1e-5, atol=1e-6)


def test_gamma_can_be_differentiated():
    def spread(gamma):
        return jnp.mean(drawn(samplers.FlowMap(gamma=gamma), 2).x[:, 0] ** 2)

    slope = jax.jit(jax.grad(spread))(0.5)
    difference = (spread(0.51) - spread(0.49)) / 0.02
    np.testing.assert_allclose(slope, difference, rtol=0.02)


@pytest.mark.slow
def test_it_is_compared_and_fitted_like_any_solver():
    problem = exact_problem("gaussian", DATA, SDE)
    (row,) = sd.compare(problem, "flow_map", (1,), num=200)
    assert (row["nfe"], row["steps"]) == (1, 1)
    assert row["rms"] < 0.02  # of the noise of t_min, which the line takes out
    fitted = sd.fit(
        KEY, ROUGH, (256, 2), nfe=2, solver=samplers.FlowMap(), seconds=1.0, held_out=256
    )
    assert fitted.error <= fitted.start_error
    made = sd.sample(KEY, ROUGH, (4, 2), solver=fitted.solver)
    assert made.nfe == 2


def rough(exact, sde, x, t, s, cond):
    """A flow map by one step of DDIM, so that the times matter."""
    return sd.prediction.Mapped(exact.model(sde)(x, t).towards(s))


ROUGH = sd.Model(SDE, MODEL.function, DATA, rough)


def test_what_is_refused():
    plain = sd.from_x0(SDE, lambda x, t: 0.5 * x)
    with pytest.raises(ValueError, match="the model has no flow map"):
        sd.sample(KEY, plain, (2, 2), solver=samplers.FlowMap(), grid=grids.karras(SDE, 1))
    with pytest.raises(ValueError, match=r"gamma from 0 to 1, got gamma=1\.5"):
        samplers.named("flow_map", gamma=1.5)
