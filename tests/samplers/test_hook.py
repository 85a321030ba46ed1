"""Hooked: a function after every step, with the step's number, time, state and condition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.samplers import Hooked

SDE = sd.VP()
TRACES = []


def denoise(x, t, cond=None):
    TRACES.append(1)
    return jnp.tanh(x)


MODEL = sd.from_x0(SDE, denoise)
GRID = grids.uniform(SDE, 6)


def draw(solver, batch=3, **options):
    options = {"solver": solver, "grid": GRID} | options
    return sd.sample(jax.random.key(0), MODEL, (batch, 2), **options)


def pinned(value, i, t, state, cond):
    """The first coordinate at its value, noised to the time; the second plus i cond."""
    x = state.x.at[:, 0].set(SDE.alpha(t) * value)
    return state._replace(x=x.at[:, 1].add(0.01 * i * (0.0 if cond is None else cond)))


@pytest.mark.parametrize("solver", [samplers.DDIM(), samplers.DPMSolverPP2M(), samplers.DDIM(1.0)])
def test_the_hook_receives_number_time_state_and_condition(solver):
    told = []

    def note(i, t, state, cond):
        jax.debug.callback(lambda *values: told.append(values), i, t, state.x, cond)
        return state

    cond = jnp.arange(3.0)
    made = draw(Hooked(solver, note), cond=cond, trajectory=True)
    jax.effects_barrier()
    told.sort(key=lambda values: values[0])
    assert [int(i) for i, *_ in told] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([t for _, t, *_ in told], GRID[1:])
    np.testing.assert_allclose([x for *_, x, _ in told], made.trajectory[1:])
    np.testing.assert_array_equal(told[0][3], cond)
    np.testing.assert_allclose(made.x, draw(solver, cond=cond).x, rtol=1e-5)  # nothing changed
    assert made.nfe == 7


def test_what_it_returns_is_where_the_next_step_begins():
    made = draw(Hooked(samplers.DDIM(), Partial(pinned, jnp.asarray(0.7))), trajectory=True)
    expected = jnp.repeat(0.7 * SDE.alpha(GRID[1:])[:, None], 3, axis=1)
    np.testing.assert_allclose(made.trajectory[1:, :, 0], expected, rtol=1e-5)


def test_other_arrays_compile_nothing_and_a_sample_is_its_own():
    def solver(value):
        return Hooked(samplers.DDIM(1.0), Partial(pinned, jnp.asarray(value)))

    whole, traced = draw(solver(0.5), cond=jnp.arange(3.0)).x, len(TRACES)
    draw(solver(0.9), cond=jnp.ones(3))
    assert len(TRACES) == traced
    alone = draw(solver(0.5), batch=1, first=2, cond=jnp.array([2.0])).x
    np.testing.assert_allclose(alone, whole[2:], rtol=1e-5)
    slope = jax.grad(lambda value: draw(solver(value)).x[0, 0])(0.5)
    assert slope > 0.0


def test_it_wraps_and_is_wrapped():
    hook = Partial(pinned, jnp.asarray(0.5))
    corrected = samplers.PredictorCorrector(Hooked(samplers.DDIM(), hook), samplers.ULA())
    assert jnp.all(jnp.isfinite(draw(corrected).x))


def test_what_is_no_function_is_named():
    with pytest.raises(TypeError, match="hook must be a function"):
        Hooked(samplers.DDIM(), 3)
