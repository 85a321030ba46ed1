"""The laws of every exact distribution, against automatic differentiation and between precisions.

A distribution sees of an SDE only alpha and sigma at the times it is asked for. So one compiled
function, given these as numbers, stands for every SDE at every time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sde_diffusion as sd
from sde_diffusion.analytic import Empirical, Gaussian, GaussianMixture, Mixture, Uniform
from sde_diffusion.sdes import KINDS

RNG = np.random.default_rng(0)
# Lists, as each precision makes arrays of its own.
MEANS = [[1.0, 0.0], [-1.0, 0.5], [0.0, -2.0]]
COVARIANCES = [[[0.5, 0.2], [0.2, 0.3]], [[0.1, 0.0], [0.0, 1e-3]], [[0.2, -0.1], [-0.1, 0.2]]]
WEIGHTS = [0.5, 0.2, 0.3]
ROWS, IMAGES = RNG.normal(size=(50, 2)).tolist(), RNG.normal(size=(50, 5, 4)).tolist()
PROBLEMS = {
    "gaussian": lambda: Gaussian.of(jnp.array([1.0, -0.5]), jnp.array(COVARIANCES[0])),
    "isotropic mixture": lambda: GaussianMixture.of(MEANS, [0.3, 0.5, 0.1], WEIGHTS),
    "full mixture": lambda: GaussianMixture.full(MEANS, COVARIANCES, WEIGHTS),
    "segment": lambda: Uniform.of([-1.0, 0.5], [2.0, 0.5]),
    "checkers": lambda: Mixture.of([Uniform.of([0, 0], [1, 1]), Uniform.of([1, 1], [2, 2])]),
    "rows": lambda: Empirical(jnp.array(ROWS)),
    "images": lambda: Empirical(jnp.array(IMAGES)),
}
every_problem = pytest.mark.parametrize("problem", PROBLEMS)


@sd.kind
class Level(sd.SDE):
    """Any SDE at one time."""

    scale: float = 1.0
    noise: float = 1.0

    def alpha(self, t):
        return jnp.full_like(t, self.scale)

    def sigma(self, t):
        return jnp.full_like(t, self.noise)


def level(name, t):
    """alpha and sigma of an SDE at a time, a share of t_max, in double precision."""
    with jax.enable_x64(True):
        sde = KINDS[name]()
        return float(sde.alpha(t * sde.t_max)), float(sde.sigma(t * sde.t_max))


LEVELS = np.array([level(name, t) for name in KINDS for t in (1e-3, 0.1, 0.5, 0.9)])
BROAD = np.array([[0.9, 1.0], [0.9, 2.0]])


@functools.cache
def at_levels(problem, method):
    """(alpha [L], sigma [L], samples of p_t [L, num, *event]) -> the method's [L, num, ...]."""

    def at(alpha, sigma, x):
        return getattr(PROBLEMS[problem](), method)(Level(scale=alpha, noise=sigma), x, 0.5)

    return jax.jit(jax.vmap(at))


def noised(problem, levels, spread=1.0, num=8, seed=0):
    """Samples of p_t, or further out with a larger spread, [L, num, *event]."""
    key_x, key_z = jax.random.split(jax.random.key(seed))
    x0 = np.asarray(PROBLEMS[problem]().sample(key_x, num))
    z = np.asarray(jax.random.normal(key_z, x0.shape))
    alpha, sigma = np.reshape(levels.T, (2, -1) + (1,) * x0.ndim)
    return alpha * x0 + spread * sigma * z


@every_problem
class TestEveryProblem:
    def test_score_is_the_gradient_of_the_log_density(self, problem):
        with jax.enable_x64(True):
            x = noised(problem, LEVELS, spread=2.0)
            exact, log_prob = PROBLEMS[problem](), at_levels(problem, "log_prob")
            gradient = jax.grad(lambda x: jnp.sum(log_prob(*LEVELS.T, x)))(x)
            score = at_levels(problem, "score")(*LEVELS.T, x)
            assert score.shape == (*x.shape[:2], *exact.event)
            unit = LEVELS[:, 1].reshape((-1,) + (1,) * (x.ndim - 1))
            np.testing.assert_allclose(unit * score, unit * gradient, rtol=1e-6, atol=1e-8)

    def test_denoiser_obeys_tweedies_formula(self, problem):
        # E[x_0 | x] = (x + sigma^2 score) / alpha
        with jax.enable_x64(True):
            x = noised(problem, LEVELS, spread=2.0)
            alpha, sigma = LEVELS.T.reshape((2, -1) + (1,) * (x.ndim - 1))
            expected = (x + sigma**2 * at_levels(problem, "score")(*LEVELS.T, x)) / alpha
            denoised = at_levels(problem, "denoise")(*LEVELS.T, x)
            np.testing.assert_allclose(denoised, expected, rtol=1e-7, atol=1e-7)

    def test_noise_variance_is_one_plus_the_scores_divergence(self, problem):
        # Cov[eps | x] = I + sigma^2 grad score, which is Tweedie's formula of second order.
        with jax.enable_x64(True):
            sigma = LEVELS[:, 1]
            x = noised(problem, LEVELS)
            score = at_levels(problem, "score")
            size = np.prod(x.shape[2:])
            divergence = np.zeros(x.shape[:2])
            for axis in np.eye(size).reshape(size, *x.shape[2:]):
                tangent = jnp.broadcast_to(axis, x.shape)
                _, change = jax.jvp(lambda x: score(*LEVELS.T, x), (x,), (tangent,))
                divergence += np.sum(change * axis, axis=tuple(range(2, x.ndim)))
            variance = at_levels(problem, "noise_variance")(*LEVELS.T, x)
            assert variance.shape == x.shape[:2]
            expected = 1 + sigma[:, None] ** 2 * divergence / size
            np.testing.assert_allclose(variance, expected, rtol=1e-5, atol=1e-6)

    @settings(max_examples=5)
    @given(
        times=st.lists(
            st.tuples(st.sampled_from(sorted(KINDS)), st.floats(-5, 0)),
            min_size=len(LEVELS),
            max_size=len(LEVELS),
        ),
        spread=st.sampled_from([1.0, 5.0]),
    )
    def test_float32_is_as_good_as_its_input(self, problem, times, spread):
        """Score and denoiser are those of float64 for an x that is a few roundings away."""
        levels = np.array([level(name, min(10.0**t, 0.999)) for name, t in times], np.float32)
        x = np.float32(noised(problem, levels, spread))
        values = {}
        for double in (False, True):
            with jax.enable_x64(double):
                inputs = [np.asarray(a, float if double else np.float32) for a in (*levels.T, x)]
                for method in ("score", "denoise", "noise_variance"):
                    value = np.asarray(at_levels(problem, method)(*inputs), float)
                    values[method, double] = value.reshape(*x.shape[:2], -1)
        alpha, sigma = np.float64(levels.T).reshape(2, -1, 1, 1)
        rounding, size = 3e-7, np.prod(x.shape[2:])
        # The length of what rounding adds to x, alpha x_0 and sigma eps, coordinate by coordinate.
        length = np.linalg.norm(np.float64(x.reshape(*x.shape[:2], -1)), axis=-1, keepdims=True)
        length = length + np.sqrt(size) * (3 * alpha + sigma)
        # How far that moves E[eps | x], whose derivative is (I - Cov[eps | x]) / sigma: the trace
        # of the covariance bounds its effect on a length.
        condition = 1 + size * values["noise_variance", True][..., :1]
        moved = rounding * condition * length / sigma
        error = {m: np.abs(values[m, False] - values[m, True]) for m in ("score", "denoise")}
        assert np.all(sigma * error["score"] <= moved)
        assert np.all(error["denoise"] <= 3 * rounding + sigma / alpha * moved)

    def test_samples_are_of_the_density(self, problem):
        # The score has mean zero under p_t, and E[x . score] = -D.
        exact = PROBLEMS[problem]()
        assert exact.sample(jax.random.key(0), 3).shape == (3, *exact.event)
        x = noised(problem, BROAD, num=20_000)
        score = np.asarray(at_levels(problem, "score")(*BROAD.T, x)).reshape(*x.shape[:2], -1)
        projection = np.sum(x.reshape(score.shape) * score, axis=-1, keepdims=True)
        zero = np.concatenate([score, projection + score.shape[-1]], axis=-1)
        assert np.all(abs(zero.mean(axis=1)) < 5 * zero.std(axis=1) / np.sqrt(x.shape[1]))

    def test_loss_is_the_mean_squared_error_of_the_predicted_noise(self, problem):
        alpha, sigma = BROAD.T.reshape((2, -1) + (1,) * (1 + len(PROBLEMS[problem]().event)))
        x0 = noised(problem, np.array([[1.0, 0.0]]), num=20_000)
        eps = np.random.default_rng(0).standard_normal(x0.shape)
        x = np.float32(alpha * x0 + sigma * eps)
        error = -sigma * np.asarray(at_levels(problem, "score")(*BROAD.T, x)) - eps
        error = np.mean(error**2, axis=tuple(range(2, x.ndim)))
        for (alpha, sigma), measured in zip(BROAD, error, strict=True):
            sde = Level(scale=alpha, noise=sigma)
            loss = PROBLEMS[problem]().loss(sde, 0.5, jax.random.key(1), num=len(measured))
            spread = np.std(measured) / np.sqrt(len(measured))
            assert abs(loss - np.mean(measured)) < 6 * spread


@pytest.mark.parametrize("name", KINDS)
def test_the_model_is_the_score_and_the_denoiser_of_its_sde_at_each_samples_time(name):
    exact, sde = PROBLEMS["full mixture"](), KINDS[name]()
    t = jnp.array([0.05, 0.6]) * sde.t_max
    levels = sde.alpha(t), sde.sigma(t)
    x = levels[0][:, None] * exact.sample(jax.random.key(0), 2) + levels[1][:, None]
    made = jax.jit(exact.model(sde))(x, t)
    for view, method in (("score", "score"), ("x0", "denoise")):
        expected = at_levels("full mixture", method)(*levels, x[:, None])[:, 0]
        np.testing.assert_allclose(getattr(made, view), expected, rtol=1e-4, atol=1e-5)


def test_loss_has_a_value_for_each_time_and_another_for_another_key():
    exact, sde, t = PROBLEMS["segment"](), sd.EDM(), jnp.array([[0.3, 1.0, 80.0]])
    loss = jax.jit(lambda key: exact.loss(sde, t, key, num=1000))
    first, second = loss(jax.random.key(1)), loss(jax.random.key(2))
    assert first.shape == (1, 3)
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(first, second, rtol=0.1)
    # Far out x tells nothing of x_0: tr Cov[x_0] / (sigma^2 D), with 9 / 12 on one axis of two.
    np.testing.assert_allclose(first[0, 2], 9 / 12 / 80**2 / 2, rtol=1e-3)


@pytest.mark.parametrize("problem", ["gaussian", "segment", "rows", "checkers"])
@pytest.mark.parametrize("sigma", [0.02, 1.0])
def test_the_density_integrates_to_one(problem, sigma):
    exact = {
        "gaussian": Gaussian.of(jnp.array([0.3]), 0.5),
        "segment": Uniform.of([-1.0], [0.5]),
        "rows": Empirical(jnp.array([[-1.0], [0.5], [0.6]])),
        "checkers": Mixture.of([Uniform.of([-1.0], [-0.5]), Uniform.of([0.5], [0.6])]),
    }[problem]
    x = jnp.linspace(-10.0, 10.0, 40_001)[:, None]
    log_prob = jax.jit(lambda x: exact.log_prob(Level(scale=0.8, noise=sigma), x, 0.5))
    density = np.exp(log_prob(x), dtype=float)
    assert np.trapezoid(density, dx=20 / 40_000) == pytest.approx(1, abs=1e-3)
