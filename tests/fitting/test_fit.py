"""fit(): what it reaches, what it guarantees, and what it refuses."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids, samplers

SDE = sd.VP()
STD = 0.25
GAUSSIAN = sd.analytic.Gaussian.of(jnp.array([0.5, -1.0]), STD**2)
PAIR = sd.analytic.GaussianMixture.of(jnp.array([[1.0, 0.0], [-1.0, 0.5]]), 0.1)
# Time enough: a fit that is cut short depends on how fast the machine is.
SMALL = {"seconds": 600.0, "held_out": 128, "fine_steps": 40, "jacobian": 64, "batch": 64}


def fitted(exact, num, *, key=0, nfe=3, **options):
    model = exact.model(SDE)
    return sd.fit(jax.random.key(key), model, (num, 2), nfe=nfe, **(SMALL | options))


@pytest.fixture(scope="module")
def progress():
    return []


@pytest.fixture(scope="module")
def of_gaussian(progress):
    return fitted(GAUSSIAN, 128, progress=lambda *told: progress.append(told))


def rms(x, y):
    return float(jnp.sqrt(jnp.mean(jnp.sum((x - y) ** 2, axis=-1))))


def test_three_evaluations_reach_the_closed_form_of_a_gaussian(of_gaussian):
    start = jax.random.normal(jax.random.key(9), (500, 2))

    def spread(t):
        return jnp.sqrt((SDE.alpha(t) * STD) ** 2 + SDE.sigma(t) ** 2)

    z = (start - SDE.alpha(1.0) * GAUSSIAN.mean) / spread(1.0)
    end = SDE.alpha(SDE.t_min) * GAUSSIAN.mean + spread(SDE.t_min) * z
    denoised = GAUSSIAN.denoise(SDE, end, SDE.t_min)
    solver = of_gaussian.solver
    made = sd.sample(
        jax.random.key(0),
        GAUSSIAN.model(SDE),
        (500, 2),
        solver=solver,
        x_init=SDE.sigma(solver.times[0]) / SDE.sigma(1.0) * start,
    )
    assert int(made.nfe) == 3
    assert rms(made.x, denoised) < 1e-3
    assert of_gaussian.start_error > 0.01


def test_the_errors_that_it_reports_are_those_of_starts_held_out(of_gaussian):
    # the starts of `sample` by the same key, after the 128 that were fitted to
    args = (jax.random.key(0), GAUSSIAN.model(SDE), (128, 2))
    fine = sd.sample(*args, solver=samplers.RK4(), grid=grids.log_snr(SDE, 100), first=128)
    made = sd.sample(*args, solver=of_gaussian.solver, first=128)
    assert rms(made.x, fine.x) == pytest.approx(of_gaussian.error, abs=1e-4)


@pytest.mark.parametrize("pool", [None, 16])
def test_too_few_starts_never_make_it_worse_than_its_start_on_others(pool):
    few = {"batch": 2, "jacobian": 2, "fine_steps": 20, "solver": samplers.DDIM()}
    result = fitted(PAIR, 2, pool=pool, **few)
    assert result.error <= result.start_error


def test_with_no_time_left_it_keeps_what_it_has():
    result = fitted(GAUSSIAN, 128, seconds=1e-3)
    assert result.error <= result.start_error
    assert isinstance(result.solver, samplers.Fitted)


def test_a_slow_model_is_fitted_to_fewer_starts():
    calls = []

    def slow(x):
        calls.append(len(x))
        time.sleep(0.01)
        return np.zeros_like(x)

    def denoise(x, t):
        nothing = jax.pure_callback(slow, x, jax.lax.stop_gradient(x))
        return GAUSSIAN.denoise(SDE, x, t) + nothing

    model, few = sd.from_x0(SDE, denoise), {"held_out": 64, "batch": 2, "jacobian": 2}
    result = sd.fit(jax.random.key(0), model, (64, 2), nfe=3, **(SMALL | few | {"seconds": 2.0}))
    assert result.error <= result.start_error
    # The fine solutions alone of 64 and 64 starts, two at a time, would take 2,560 calls.
    assert len(calls) < 1280


def test_its_progress_has_no_error_while_it_prepares_and_then_the_least_so_far(
    of_gaussian, progress
):
    seconds, errors = np.array(progress).T
    assert (np.diff(seconds) >= 0).all()
    first = np.flatnonzero(~np.isnan(errors))[0]
    assert first > 0
    assert (np.diff(errors[first:]) <= 0).all()
    assert errors[-1] == of_gaussian.error


def test_it_depends_on_the_key_alone(of_gaussian):
    assert fitted(GAUSSIAN, 128).solver == of_gaussian.solver


def test_of_data_that_are_one_point_it_keeps_a_standard_solver():
    model = sd.from_x0(SDE, lambda x, t: jnp.ones_like(x))
    result = sd.fit(jax.random.key(0), model, (64, 2), pool=128, nfe=3, **SMALL)
    assert result.start_error == result.error == 0.0
    assert isinstance(result.solver, samplers.Fitted)


def test_a_fit_to_t_min_is_one_of_an_sde_that_ends_there():
    few = {"held_out": 64, "fine_steps": 20, "nfe": 3, "solver": samplers.DDIM()}
    model = GAUSSIAN.model(sd.VP(t_min=0.05))
    ends = sd.fit(jax.random.key(0), model, (64, 2), **(SMALL | few))
    given = fitted(GAUSSIAN, 64, **few, t_min=0.05)
    assert min(given.solver.times) > 0.05
    np.testing.assert_allclose(given.solver.times, ends.solver.times, rtol=1e-2)
    assert given.error == pytest.approx(ends.error, rel=1e-2)
    assert given.start_error == pytest.approx(ends.start_error, rel=1e-3)


def test_a_t_min_outside_of_the_sde_is_refused():
    with pytest.raises(ValueError, match="t_min must be from 0 to the t_max of VP"):
        fitted(GAUSSIAN, 8, t_min=2.0)


@pytest.mark.slow
def test_a_grid_alone_is_fitted_to_any_deterministic_solver():
    result = fitted(PAIR, 128, nfe=5, solver=samplers.DPMSolverPP2M())
    assert result.solver.solver == samplers.DPMSolverPP2M()
    made = sd.sample(jax.random.key(5), PAIR.model(SDE), (256, 2), solver=result.solver)
    assert int(made.nfe) == 5
    standard = [grids.named(name, SDE, 4) for name in ("log_snr", "karras", "uniform")]
    fine = sd.sample(
        jax.random.key(5),
        PAIR.model(SDE),
        (256, 2),
        solver=samplers.RK4(),
        grid=grids.log_snr(SDE, 100),
    )
    others = [
        sd.sample(
            jax.random.key(5),
            PAIR.model(SDE),
            (256, 2),
            solver=samplers.DPMSolverPP2M(),
            grid=grid,
        ).x
        for grid in standard
    ]
    assert rms(made.x, fine.x) < 0.8 * min(rms(x, fine.x) for x in others)


def test_each_start_has_its_own_condition():
    # Told the mean, the flow is that of one Gaussian about it; told another one, it is not.
    means = jnp.array([[1.0, 0.0], [-1.0, 0.5]])

    def denoise(x, t, cond):
        exact = sd.analytic.Gaussian.of(jnp.zeros(2), STD**2)
        mean = means[cond["label"]]
        return mean + exact.denoise(SDE, x - SDE.alpha(t)[:, None] * mean, t)

    told = []

    def conditions(rows):
        told.append(rows)
        return {"label": rows % 2}

    result = sd.fit(
        jax.random.key(0),
        sd.from_x0(SDE, denoise),
        (128, 2),
        nfe=3,
        conditions=conditions,
        **SMALL,
    )
    np.testing.assert_array_equal(np.concatenate(told), np.arange(256))
    assert result.error < 1e-3


@pytest.fixture(scope="module")
def of_25_modes():
    """(the fit, its error over many fresh starts)."""
    modes = jnp.stack(jnp.meshgrid(*[0.5 * (jnp.arange(5) - 2.0)] * 2), axis=-1).reshape(-1, 2)
    model = sd.analytic.GaussianMixture.of(modes, 0.05).model(SDE)
    sizes = {"held_out": 1024, "pool": 8192, "seconds": 600.0}
    result = sd.fit(jax.random.key(0), model, (512, 2), nfe=5, **sizes)
    args = (jax.random.key(1), model, (16384, 2))
    fine = sd.sample(*args, solver=samplers.RK4(), grid=grids.log_snr(SDE, 100)).x
    return result, rms(sd.sample(*args, solver=result.solver).x, fine)


@pytest.mark.slow
def test_a_quarter_of_the_best_standard_error_on_25_modes(of_25_modes):
    result, error = of_25_modes
    assert error < 0.25 * result.start_error


@pytest.mark.slow
def test_starts_held_out_that_were_chosen_tell_the_error_over_all(of_25_modes):
    # most of them chosen where solvers are far off: not weighted, they tell twice as much
    result, error = of_25_modes
    assert result.error == pytest.approx(error, rel=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nfe": 1}, "nfe must be at least 2, got 1"),
        ({"nfe": 6, "solver": samplers.Heun()}, "Heun takes 2 evaluations a step.*got nfe=6"),
        ({"solver": samplers.EulerMaruyama()}, "only a deterministic solver"),
        ({"pool": 3}, "pool must be at least the 4 starts of shape, got 3"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        fitted(GAUSSIAN, 4, **options)


def test_a_model_that_gives_nan_is_told():
    model = sd.from_x0(SDE, lambda x, t: jnp.where(x > 1.0, jnp.nan, 0.5 * x))
    with pytest.raises(ValueError, match=r"UniPC.* is nan or inf for \d+ of \d+ starts"):
        sd.fit(jax.random.key(0), model, (64, 2), nfe=3, **SMALL)
