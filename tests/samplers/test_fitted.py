"""Solvers with times of their own, and with coefficients of their own at each step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.tree_util import Partial

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.samplers import Fitted, FittedGrid

SDE = sd.VP()
EXACT = sd.analytic.GaussianMixture.of(jnp.array([[1.0, 0.0], [-1.0, 0.5]]), 0.3)
TIMES = (1.0, 0.6, 0.3, 1e-3)


def weighted(a, shares, times=TIMES):
    """`Fitted` with factors a and with weights that sum to one, in proportion to the shares."""
    alpha = [*np.asarray(SDE.alpha(np.asarray(times[:-1]))), 1.0]
    b = [alpha[i + 1] - a[i] * alpha[i] for i in range(len(a))]
    rows = [np.asarray(row) / np.sum(row) for row in shares]
    return Fitted(
        times, tuple(a), tuple(tuple((s * w).tolist()) for s, w in zip(b, rows, strict=True))
    )


SOLVER = weighted([0.9, 0.6, 0.1], [[1.0], [0.2, 0.8], [0.1, 0.3, 0.6]])


def draw(solver=SOLVER, key=0, batch=6, model=None, **options):
    model = EXACT.model(SDE) if model is None else model
    return sd.sample(jax.random.key(key), model, (batch, 2), solver=solver, **options)


positive = st.floats(0.1, 2.0)


@jax.jit
def end_at_a_point(a, c, point, start):
    """Where `Fitted` ends whose every prediction is the point."""
    model = sd.from_x0(SDE, lambda x, t: jnp.broadcast_to(point, x.shape))
    keys = jax.random.split(jax.random.key(0), len(start))
    return Fitted(TIMES, a, c).solve(keys, model, start, jnp.asarray(TIMES)).x


@given(
    a=st.tuples(*[st.floats(-0.5, 1.5)] * 3),
    shares=st.tuples(*[st.tuples(*[positive] * i) for i in (1, 2, 3)]),
)
def test_with_weights_that_sum_to_one_a_constant_prediction_is_exact(a, shares):
    # The data's part of every x_i is alpha_i point, and of the start's noise a_0 a_1 a_2 is left.
    point, start = jnp.array([0.3, -0.7]), jnp.array([[0.2, 0.1], [-1.0, 2.0]])
    solver = weighted(a, shares)
    c = jnp.array([[*row, *[0.0] * (3 - len(row))] for row in solver.c])
    noise = start - SDE.alpha(1.0) * point
    made = end_at_a_point(jnp.asarray(solver.a), c, point, start)
    np.testing.assert_allclose(made, point + np.prod(a) * noise, atol=2e-5)


def test_its_steps_are_the_published_combination():
    start = jax.random.normal(jax.random.key(1), (4, 2))
    x, x0 = start, []
    for i, t in enumerate(TIMES[:-1]):
        x0.append(EXACT.denoise(SDE, x, t))
        x = SOLVER.a[i] * x + sum(c * value for c, value in zip(SOLVER.c[i], x0, strict=True))
    np.testing.assert_allclose(draw(batch=4, x_init=start).x, x, atol=1e-5)


def test_the_last_step_denoises_so_that_no_evaluation_is_added():
    made = draw()
    assert int(made.nfe) == 3
    np.testing.assert_array_equal(made.x, draw(denoise_last=False).x)


def test_a_sample_does_not_depend_on_its_batch():
    whole = draw(batch=6).x
    np.testing.assert_allclose(draw(batch=2, first=3).x, whole[3:5], atol=1e-5)


def test_an_equal_solver_does_not_retrace():
    traces = []

    def denoise(x, t):
        traces.append(1)
        return EXACT.denoise(SDE, x, t)

    model = sd.from_x0(SDE, Partial(denoise))
    draw(model=model)
    first = len(traces)
    draw(Fitted(SOLVER.times, SOLVER.a, SOLVER.c), key=1, model=model)
    assert len(traces) == first


def test_inside_jit_vmap_and_pmap():
    alone = np.stack([draw(key=k).x for k in (0, 1)])
    together = jax.jit(jax.vmap(lambda k: draw(key=k).x))(jnp.arange(2))
    np.testing.assert_allclose(together, alone, atol=1e-5)
    mapped = jax.pmap(lambda k: draw(key=k).x, devices=jax.devices()[:2])(jnp.arange(2))
    np.testing.assert_allclose(mapped, alone, atol=1e-5)


@pytest.mark.parametrize("solver", [samplers.Heun(), samplers.DPMSolverPP2M(), samplers.UniPC()])
def test_a_fitted_grid_is_the_solver_on_it(solver):
    expected = draw(solver, grid=jnp.asarray(TIMES))
    made = draw(FittedGrid(solver, TIMES))
    np.testing.assert_array_equal(made.x, expected.x)
    assert int(made.nfe) == int(expected.nfe)


def test_its_own_grid_may_be_given_and_another_may_not():
    np.testing.assert_array_equal(draw(grid=jnp.asarray(TIMES)).x, draw().x)
    with pytest.raises(ValueError, match="Fitted was fitted with its own grid"):
        draw(grid=grids.uniform(SDE, 3))


def test_other_solvers_need_a_grid():
    with pytest.raises(ValueError, match="Heun needs a grid"):
        draw(samplers.Heun())
