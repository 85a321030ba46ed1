"""What the fit searches: times by their shares, and every standard multistep solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.fitting import family

EXACT = sd.analytic.GaussianMixture.of(jnp.array([[1.0, 0.0], [-1.0, 0.5]]), 0.3)
SDES = [sd.VP(), sd.SubVP(), sd.VE(), sd.Cosine(), sd.EDM(), sd.Flow()]


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@given(logits=st.lists(st.floats(-30.0, 30.0), min_size=4, max_size=4))
def test_any_logits_are_decreasing_times_within_the_process(sde, logits):
    times = np.asarray(family.times_of(sde, jnp.asarray(logits)))
    assert sde.t_max > times[0]
    assert np.all(np.diff(times) < 0)
    assert times[-1] > sde.t_min


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_the_logits_of_times_give_them_back(sde):
    times = family.times_of(sde, jnp.array([0.3, -0.2, 0.5, -1.0]))
    np.testing.assert_allclose(family.times_of(sde, family.logits_of(sde, times)), times, rtol=1e-3)


@pytest.mark.parametrize("sde", [sd.VP(), sd.EDM(), sd.Flow()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize(
    "solver",
    [samplers.DDIM(), samplers.DPMSolverPP2M(), samplers.DEIS(), samplers.UniPC()],
    ids=lambda solver: type(solver).__name__,
)
@pytest.mark.parametrize("denoise_last", [True, False])
def test_a_standard_solver_is_one_of_the_family(sde, solver, denoise_last):
    times = grids.cosine(sde, 5 - denoise_last)
    theta = family.as_multistep(solver, sde, times, denoise_last=denoise_last)
    fitted = family.settle(family.multistep(5)(sde, theta))
    near = times[: len(fitted.times) - 1]
    near = family.times_of(sde, family.logits_of(sde, near))
    near = jnp.concatenate([near, times[len(near) :]])
    key, model = jax.random.key(0), EXACT.model(sde)
    options = {"solver": solver, "grid": near, "denoise_last": denoise_last}
    expected = sd.sample(key, model, (64, 2), **options)
    made = sd.sample(key, model, (64, 2), solver=fitted)
    assert int(made.nfe) == int(expected.nfe) == 5
    np.testing.assert_allclose(made.x, expected.x, atol=2e-3)


def test_without_sums_beyond_a_constant_prediction_stays_where_it_is():
    sde = sd.VP()
    theta = jax.random.normal(jax.random.key(0), (18,)).at[8:12].set(0.0)
    solver = family.settle(family.multistep(4)(sde, theta))
    alpha = [*np.asarray(sde.alpha(np.asarray(solver.times[:-1]))), 1.0]
    for i, (a, row) in enumerate(zip(solver.a, solver.c, strict=True)):
        assert sum(row) == pytest.approx(alpha[i + 1] - a * alpha[i], abs=1e-5)
