"""Exact distributions against automatic differentiation, scipy, and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import sde_diffusion as sd
from sde_diffusion.sdes import KINDS

COVARIANCE = np.array([[0.5, 0.2], [0.2, 0.3]])
PROBLEMS = {
    "gaussian": lambda: sd.analytic.Gaussian.of(jnp.array([1.0, -0.5]), jnp.asarray(COVARIANCE)),
    "mixture": lambda: sd.analytic.GaussianMixture.of(
        jnp.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -2.0]]),
        jnp.array([0.3, 0.5, 0.1]),
        jnp.array([0.5, 0.2, 0.3]),
    ),
}
X = np.array([[0.3, -0.2], [-1.5, 2.0], [4.0, 0.0]])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("problem", PROBLEMS)
class TestEveryProblem:
    def test_score_is_the_gradient_of_the_log_density(self, problem, name):
        with jax.enable_x64(True):
            exact, sde, x = PROBLEMS[problem](), KINDS[name](), jnp.asarray(X)
            t = jnp.array([0.05, 0.4, 0.9]) * sde.t_max
            gradient = jax.grad(lambda x: jnp.sum(exact.log_prob(sde, x, t)))(x)
            np.testing.assert_allclose(exact.score(sde, x, t), gradient, rtol=1e-8, atol=1e-10)

    def test_denoiser_obeys_tweedies_formula(self, problem, name):
        # E[x_0 | x] = (x + sigma^2 score) / alpha
        with jax.enable_x64(True):
            exact, sde, x = PROBLEMS[problem](), KINDS[name](), jnp.asarray(X)
            t = 0.3 * sde.t_max
            expected = (x + sde.sigma(t) ** 2 * exact.score(sde, x, t)) / sde.alpha(t)
            np.testing.assert_allclose(exact.denoise(sde, x, t), expected, rtol=1e-8, atol=1e-8)

    def test_the_model_agrees_with_score_and_denoiser_in_float32(self, problem, name):
        exact, sde, x = PROBLEMS[problem](), KINDS[name](), jnp.asarray(X, jnp.float32)
        for t in (sde.t_min, 0.5 * sde.t_max):
            made = exact.model(sde)(x, t)
            np.testing.assert_allclose(made.score, exact.score(sde, x, t), rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(made.x0, exact.denoise(sde, x, t), rtol=1e-3, atol=1e-4)

    def test_samples_have_the_moments_of_the_density(self, problem, name):
        exact, sde = PROBLEMS[problem](), KINDS[name]()
        x = exact.sample(jax.random.key(0), 20_000)
        t = 1e-4 * sde.t_max  # score has mean zero under p_t; a wrong sampler shows here
        score = exact.score(sde, sde.alpha(t) * x, t)
        spread = np.std(score, axis=0) / np.sqrt(len(x))
        assert np.all(np.abs(np.mean(score, axis=0)) < 5 * spread)


def test_gaussian_density_is_that_of_scipy():
    sde, t = sd.VP(), 0.3
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    expected = stats.multivariate_normal(
        alpha * np.array([1.0, -0.5]), alpha**2 * COVARIANCE + sigma**2 * np.eye(2)
    ).logpdf(X)
    np.testing.assert_allclose(PROBLEMS["gaussian"]().log_prob(sde, X, t), expected, rtol=1e-5)


def test_gaussian_keeps_its_covariance():
    np.testing.assert_allclose(PROBLEMS["gaussian"]().covariance, COVARIANCE, rtol=1e-5)


def test_mixture_density_is_that_of_scipy():
    sde, t, mixture = sd.EDM(), 0.7, PROBLEMS["mixture"]()
    expected = np.log(
        sum(
            float(weight) * stats.multivariate_normal(mean, float(std) ** 2 + t**2).pdf(X)
            for mean, std, weight in zip(mixture.means, mixture.std, mixture.weights, strict=True)
        )
    )
    np.testing.assert_allclose(mixture.log_prob(sde, X, t), expected, rtol=1e-4)


def test_gaussian_loss_is_the_posterior_variance_of_the_noise():
    sde, exact, t = sd.VP(), PROBLEMS["gaussian"](), 0.3
    x0 = exact.sample(jax.random.key(0), 50_000)
    eps = jax.random.normal(jax.random.key(1), x0.shape)
    x = sde.alpha(t) * x0 + sde.sigma(t) * eps
    measured = np.mean((exact.model(sde)(x, t).eps - eps) ** 2)
    np.testing.assert_allclose(exact.loss(sde, t), measured, rtol=0.02)
