"""pushforward(): the density of what a sampler makes, against closed forms and counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy import stats

import sde_diffusion as sd
from sde_diffusion import analytic, grids, samplers
from sde_diffusion.density import pushforward

KEY = jax.random.key(0)
NUM = 32

DETERMINISTIC = [
    solver
    for solver in (kind() for kind in samplers.SOLVERS.values())
    if not (solver.stochastic or solver.adaptive)
]
DETERMINISTIC += [samplers.ParaDiGMS(samplers.DDIM(), window=4)]


def mixture_in_1d():
    return analytic.GaussianMixture.of(jnp.array([[-0.8], [0.1], [0.7]]), 0.05)


def correlated(dimension):
    root = np.random.default_rng(1).standard_normal((dimension, dimension)) / np.sqrt(dimension)
    return analytic.Gaussian.of(jnp.linspace(-0.5, 0.5, dimension), jnp.asarray(root @ root.T))


def starts(sde, grid, shape):
    """What `sample` starts from, of the prior's standard deviation at grid[0]."""
    keys = sd.noise.fold_in(sd.noise.sample_keys(KEY, shape[0]), 0)
    return sde.sigma(grid[0]) * sd.noise.normal(keys, jnp.zeros(shape))


@pytest.mark.parametrize("solver", DETERMINISTIC, ids=lambda s: type(s).__name__)
def test_of_a_gaussian_it_is_the_gaussian_that_the_affine_steps_make(solver):
    # The score of a Gaussian is affine, so all steps together are x = A x_T + b.
    sde, dimension = sd.VP(), 4
    grid = grids.log_snr(sde, 6)
    model = correlated(dimension).model(sde)
    made = pushforward(KEY, model, (NUM, dimension), solver=solver, grid=grid)

    x_T = np.asarray(starts(sde, grid, (NUM, dimension)), float)
    rows = np.concatenate([x_T, np.ones((NUM, 1))], axis=1)
    (*a, b), *_ = np.linalg.lstsq(rows, np.asarray(made.x, float))
    np.testing.assert_allclose(rows @ [*a, b], made.x, atol=2e-4)
    covariance = float(sde.sigma(grid[0])) ** 2 * np.transpose(a) @ a
    expected = stats.multivariate_normal(b, covariance).logpdf(made.x)
    np.testing.assert_allclose(made.log_prob, expected, atol=2e-3)


@pytest.mark.parametrize(
    "sde",
    [sd.VP(), sd.SubVP(), sd.VE(), sd.Cosine(), sd.EDM(), sd.Flow()],
    ids=lambda sde: type(sde).__name__,
)
def test_of_many_steps_it_is_the_density_of_the_data(sde):
    exact = problem_in_16d()
    grid = grids.cosine(sde, 300)
    made = pushforward(
        KEY, exact.model(sde), (NUM, 16), solver=samplers.RK4(), grid=grid, denoise_last=False
    )
    # But for the prior, which is the process's own end to that accuracy.
    np.testing.assert_allclose(made.log_prob, exact.log_prob(sde, made.x, sde.t_min), atol=5e-3)


def problem_in_16d():
    means = 0.6 * np.random.default_rng(0).standard_normal((4, 16))
    return analytic.GaussianMixture.of(jnp.asarray(means - means.mean(axis=0)), 0.3)


def ends_of(model, sde, solver, grid, x):
    return sd.sample(KEY, model, x.shape, solver=solver, grid=grid, x_init=x).x[:, 0]


class TestInOneDimension:
    """Where the map can be drawn: its slope by differences, and every start that ends at x."""

    def test_it_is_the_density_of_the_start_over_the_slope(self):
        sde, solver = sd.VP(), samplers.DDIM()
        model, grid = mixture_in_1d().model(sde), grids.log_snr(sde, 8)
        made = pushforward(KEY, model, (NUM, 1), solver=solver, grid=grid)
        s, x = float(sde.sigma(grid[0])), starts(sde, grid, (NUM, 1))
        up, down = (ends_of(model, sde, solver, grid, x + h) for h in (1e-2, -1e-2))
        expected = stats.norm(0, s).logpdf(x[:, 0]) - np.log((up - down) / 2e-2)
        np.testing.assert_allclose(made.log_prob, expected, atol=0.05)
        np.testing.assert_array_equal(made.sign, 1.0)

    def test_it_integrates_to_one(self):
        # E_q[1 / q(x)] over an interval that q covers is the length of the interval.
        sde, model = sd.VP(), mixture_in_1d().model(sd.VP())
        made = pushforward(
            KEY, model, (20_000, 1), solver=samplers.DDIM(), grid=grids.log_snr(sde, 8)
        )
        x = np.asarray(made.x[:, 0])
        inside = (x > -0.85) & (x < -0.75)
        assert np.mean(inside * np.exp(-made.log_prob)) == pytest.approx(0.1, rel=0.03)

    def test_where_the_map_folds_it_is_a_lower_bound_and_the_signs_differ(self):
        sde, solver = sd.VP(), samplers.Heun()
        model, grid = mixture_in_1d().model(sde), grids.log_snr(sde, 4)
        made = pushforward(KEY, model, (400, 1), solver=solver, grid=grid)
        assert {-1.0, 1.0} == set(np.asarray(made.sign).tolist())

        # The true density at x: over all cells of a fine grid of starts that cover it.
        s = float(sde.sigma(grid[0]))
        starts = np.linspace(-5 * s, 5 * s, 100_001)
        ends = np.asarray(ends_of(model, sde, solver, grid, jnp.asarray(starts[:, None])), float)
        mass = np.diff(stats.norm(0, s).cdf(starts))
        low, high = np.minimum(ends[1:], ends[:-1]), np.maximum(ends[1:], ends[:-1])
        density = mass / np.maximum(high - low, 1e-12)
        x = np.asarray(made.x[:, 0], float)
        true = np.array([density[(low <= value) & (value < high)].sum() for value in x])
        told = np.exp(np.asarray(made.log_prob, float))
        assert np.mean(told <= 1.02 * true) > 0.98
        assert np.mean(told < 0.9 * true) > 0.05


def test_the_samples_are_those_of_sample_and_need_no_neighbours():
    sde, solver = sd.VP(), samplers.DPMSolverPP2M()
    model, grid = correlated(3).model(sde), grids.log_snr(sde, 5)
    made = pushforward(KEY, model, (6, 3), solver=solver, grid=grid)
    expected = sd.sample(KEY, model, (6, 3), solver=solver, grid=grid)
    np.testing.assert_allclose(made.x, expected.x, atol=1e-6)
    later = pushforward(KEY, model, (2, 3), solver=solver, grid=grid, first=4)
    np.testing.assert_allclose(later.log_prob, made.log_prob[4:], atol=1e-5)


def test_a_solver_that_was_fitted_brings_its_own_grid():
    sde = sd.VP()
    times = tuple(np.asarray(grids.log_snr(sde, 5)).tolist())
    model = correlated(3).model(sde)
    fitted = samplers.FittedGrid(samplers.DDIM(), times)
    ours = pushforward(KEY, model, (4, 3), solver=fitted)
    plain = pushforward(KEY, model, (4, 3), solver=samplers.DDIM(), grid=jnp.asarray(times))
    np.testing.assert_allclose(ours.log_prob, plain.log_prob, atol=1e-5)


def test_an_image_is_as_good_as_its_pixels_in_a_row():
    def made(*event):
        model = sd.from_x0(sde, lambda x, t: jnp.tanh(x) * jnp.arange(1.0, 7.0).reshape(event))
        return pushforward(KEY, model, (3, *event), solver=samplers.DDIM(), grid=grid)

    sde, grid = sd.VP(), grids.log_snr(sd.VP(), 4)
    image, row = made(2, 3, 1), made(6)
    np.testing.assert_allclose(image.x.reshape(3, 6), row.x, atol=1e-6)
    np.testing.assert_allclose(image.log_prob, row.log_prob, atol=1e-5)


def test_a_second_call_compiles_nothing():
    traces = []

    def denoise(shift, x, t):
        traces.append(1)
        return jnp.tanh(x) + shift

    def again(shift):
        sde = sd.VP(beta_max=10.0 + shift)
        model = sd.from_x0(sde, Partial(denoise, jnp.float32(shift)))
        grid = grids.log_snr(sde, 5)
        return pushforward(KEY, model, (4, 3), solver=samplers.DDIM(), grid=grid)

    first, traced = again(0.0), len(traces)
    second = again(1.0)
    assert len(traces) == traced
    assert not np.allclose(first.log_prob, second.log_prob)


@pytest.mark.parametrize(
    ("solver", "why"),
    [(samplers.DDIM(eta=1.0), "draws noise"), (samplers.AdaptiveDPMSolver(), "its own steps")],
)
def test_refuses_what_is_not_one_map_of_the_start(solver, why):
    sde = sd.VP()
    with pytest.raises(ValueError, match=why):
        pushforward(
            KEY, correlated(3).model(sde), (4, 3), solver=solver, grid=grids.log_snr(sde, 5)
        )


def test_refuses_a_grid_that_sample_refuses():
    sde = sd.VP()
    with pytest.raises(ValueError, match="DDIM needs a grid of times"):
        pushforward(KEY, correlated(3).model(sde), (4, 3), solver=samplers.DDIM())
