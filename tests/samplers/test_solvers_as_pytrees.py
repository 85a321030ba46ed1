"""Solvers are pytrees: numbers and arrays are leaves, and everything else is structure."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids, samplers

SDE = sd.VP()
TRACES = []


def denoise(x, t):
    TRACES.append(1)
    return jnp.tanh(x)


MODEL = sd.from_x0(SDE, denoise)
MADE = [make() for make in samplers.SOLVERS.values()]


def draw(solver, dtype=jnp.float32, **options):
    steps = 1 if solver.adaptive else 6
    start = jnp.linspace(-1.0, 1.0, 8, dtype=dtype).reshape(4, 2)
    grid = grids.uniform(SDE, steps)
    return sd.sample(
        jax.random.key(0), MODEL, (4, 2), solver=solver, grid=grid, x_init=start, **options
    )


def ids(solver):
    return type(solver).__name__


@pytest.mark.parametrize("solver", MADE, ids=ids)
def test_leaves_and_structure_give_the_solver_back(solver):
    leaves, structure = jax.tree.flatten(solver)
    assert jax.tree.unflatten(structure, leaves) == solver
    assert all(type(leaf) is float for leaf in leaves)
    hash(structure)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (samplers.DDIM, "eta"),
        (samplers.EDMSampler, "churn"),
        (samplers.SDEDPMSolverPP2M, "eta"),
        (samplers.SEEDS3, "eta"),
        (samplers.SASolver, "tau"),
        (samplers.ULA, "h"),
    ],
)
def test_the_amount_of_noise_is_traced_and_has_a_derivative(make, field):
    def total(value):
        return jnp.sum(draw(make(**{field: value})).x)

    low, high = 0.2, 0.21
    slope = jax.grad(total)(0.205)
    traced = len(TRACES)
    difference = (total(high) - total(low)) / (high - low)
    assert len(TRACES) <= traced + 8  # compiled once for both
    np.testing.assert_allclose(slope, difference, rtol=0.05, atol=1e-3)


def test_zero_is_another_program_which_draws_no_noise():
    assert not samplers.DDIM(eta=0.0).stochastic
    assert "random_bits" not in str(jax.make_jaxpr(lambda: draw(samplers.DDIM(eta=0.0)).x)())
    assert "random_bits" in str(jax.make_jaxpr(lambda: draw(samplers.DDIM(eta=0.5)).x)())


def test_a_solver_may_hold_an_array_another_value_of_which_compiles_nothing():
    @dataclasses.dataclass(frozen=True)
    class Masked(samplers.Solver):
        mask: Any
        order = 1

        def step(self, key, model, state, t, s, cond=None):
            x = state.x - (t - s) * model(state.x, t, cond).velocity
            return samplers.State(jnp.where(self.mask, x, state.x))

    kept = draw(Masked(jnp.array([True, False])), denoise_last=False).x
    traced = len(TRACES)
    other = draw(Masked(jnp.array([False, True])), denoise_last=False).x
    assert len(TRACES) == traced
    start = np.linspace(-1.0, 1.0, 8).reshape(4, 2)
    np.testing.assert_allclose(kept[:, 1], start[:, 1], rtol=1e-6)
    np.testing.assert_allclose(other[:, 0], start[:, 0], rtol=1e-6)


def test_a_solver_that_is_not_frozen_is_refused():
    class Forgotten(samplers.Solver):
        order = 1

    with pytest.raises(TypeError, match="Forgotten must be a frozen dataclass"):
        draw(Forgotten())


@pytest.mark.parametrize("solver", MADE, ids=ids)
def test_samples_have_the_dtype_of_their_start(solver):
    reference = np.asarray(draw(solver).x, np.float64)
    made = draw(solver, jnp.bfloat16)
    assert made.x.dtype == jnp.bfloat16
    if not solver.stochastic:  # else the noise is drawn in other bits
        np.testing.assert_allclose(np.asarray(made.x, np.float64), reference, atol=0.03)
    with jax.enable_x64(True):
        made = draw(solver, jnp.float32)
        assert made.x.dtype == jnp.float32
        if not solver.stochastic:
            np.testing.assert_allclose(made.x, reference, atol=1e-4)
