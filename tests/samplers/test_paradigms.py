"""ParaDiGMS: the sequential solver's samples, in fewer rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.comparison import problems

SDE = sd.VP()
EXACT = sd.analytic.GaussianMixture.of(jnp.array([[1.0, 0.0], [-1.0, 0.5]]), 0.3)
STEPS, TOLERANCE = 40, 1e-3


def draw(solver, sde=SDE, batch=4, model=None, **options):
    return sd.sample(
        jax.random.key(0),
        EXACT.model(sde) if model is None else model,
        (batch, 2),
        solver=solver,
        grid=grids.log_snr(sde, STEPS),
        denoise_last=False,
        **options,
    )


@pytest.mark.parametrize(
    ("solver", "sde", "most"),
    [
        (samplers.Euler(), SDE, 12),
        (samplers.DDIM(), SDE, 12),
        (samplers.DDIM(), sd.EDM(), 20),
        (samplers.Heun(), SDE, 12),
        (samplers.DPMSolverPP2M(), SDE, 20),
        # What else they carry, of the two or three steps before, arrives a round late for each.
        (samplers.DPMSolverFast(), SDE, 38),
        (samplers.UniPC(), SDE, 38),
    ],
    ids=lambda value: type(value).__name__,
)
def test_equals_the_sequential_solver_within_its_tolerance_in_fewer_rounds(solver, sde, most):
    expected = draw(solver, sde, trajectory=True)
    made = draw(samplers.ParaDiGMS(solver, tolerance=TOLERANCE), sde, trajectory=True)
    grid = grids.log_snr(sde, STEPS)
    bound = TOLERANCE * np.sqrt(sde.alpha(grid) ** 2 + sde.sigma(grid) ** 2)
    error = np.sqrt(np.mean((made.trajectory - expected.trajectory) ** 2, axis=-1))
    assert np.all(error <= bound[:, None])
    np.testing.assert_array_equal(made.x, made.trajectory[-1])
    assert np.all(made.nfe <= most * 16 * solver.evaluations)


@pytest.mark.parametrize("window", [16, 64])
@pytest.mark.parametrize(
    ("solver", "tolerance"),
    [(samplers.DDIM(), 1e-2), (samplers.DEIS(), 1e-3), (samplers.DPMSolverPP2M(), 1e-3)],
    ids=lambda value: type(value).__name__,
)
def test_what_two_hundred_steps_leave_over_is_within_the_tolerance(solver, tolerance, window):
    # Samples that start between two of the 25 modes are where the flow makes errors grow.
    model, grid = problems.mixture2d().model(SDE), grids.log_snr(SDE, 200)

    def run(solver):
        return sd.sample(
            jax.random.key(0),
            model,
            (100, 2),
            solver=solver,
            grid=grid,
            denoise_last=False,
            trajectory=True,
        )

    made = run(samplers.ParaDiGMS(solver, window, tolerance))
    error = np.sqrt(np.mean((made.trajectory - run(solver).trajectory) ** 2, axis=-1))
    unit = np.sqrt(SDE.alpha(grid) ** 2 + SDE.sigma(grid) ** 2)
    assert np.max(error / unit[:, None]) <= tolerance
    assert np.all(made.nfe / window <= 0.5 * 200)


def test_a_first_order_solver_of_forty_steps_needs_ten_rounds():
    rounds = draw(samplers.ParaDiGMS(samplers.DDIM(), window=STEPS)).nfe / STEPS
    assert np.all(rounds <= 10)


@pytest.mark.parametrize("window", [1, STEPS, 3 * STEPS])
def test_without_tolerance_it_is_the_sequential_solver_to_rounding(window):
    solver = samplers.DPMSolverPP2M()
    made = draw(samplers.ParaDiGMS(solver, window=window, tolerance=0.0))
    np.testing.assert_allclose(made.x, draw(solver).x, atol=1e-5)
    assert np.all(made.nfe <= STEPS * min(window, STEPS))


def test_each_sample_keeps_its_own_condition():
    def denoise(x, t, cond):
        return jnp.tanh(x) * cond[:, None]

    options = {"batch": 3, "model": sd.from_x0(SDE, denoise), "cond": jnp.array([2.0, -3.0, 0.5])}
    made = draw(samplers.ParaDiGMS(samplers.DDIM()), **options)
    expected = draw(samplers.DDIM(), **options)
    np.testing.assert_allclose(made.x, expected.x, atol=5 * TOLERANCE)


def test_a_model_that_is_not_finite_ends():
    model = sd.from_x0(SDE, lambda x, t: jnp.full_like(x, jnp.nan))
    assert np.all(np.isnan(draw(samplers.ParaDiGMS(samplers.DDIM()), model=model).x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.ParaDiGMS(samplers.EulerMaruyama()), "got EulerMaruyama"),
        (lambda: samplers.ParaDiGMS(samplers.BlackBox()), "solver for any grid, got BlackBox"),
        (lambda: samplers.ParaDiGMS(samplers.DDIM(), window=0), "at least 1, got 0"),
        (
            lambda: samplers.ParaDiGMS(samplers.DDIM(), tolerance=-1.0),
            "at least 0, got .*-1",
        ),
    ],
)
def test_a_bad_value_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
