"""Exact posteriors: Bayes' rule holds at every point, and a grid agrees with the closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion.analytic import Gaussian, GaussianMixture, Uniform, on_grid, posterior

SDE = sd.EDM()  # at t = 0 it has no noise, and log_prob is that of the data
MATRIX = jnp.array([[1.0, 2.0, 0.5], [0.0, -1.0, 1.0]])
COVARIANCE = jnp.array([[0.5, 0.2, 0.0], [0.2, 0.6, -0.1], [0.0, -0.1, 0.3]])
MEANS = jnp.array([[1.0, 0.0, 0.5], [-1.0, 0.5, 0.0]])
Y = jnp.array([0.7, -0.4])
PRIORS = {
    "gaussian": Gaussian.of(MEANS[0], COVARIANCE),
    "isotropic mixture": GaussianMixture.of(MEANS, [0.5, 0.8], [0.3, 0.7]),
    "full mixture": GaussianMixture.full(MEANS, jnp.stack([COVARIANCE, 2 * COVARIANCE])),
}


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_the_posterior_is_prior_times_likelihood_at_every_point(prior):
    exact, x = posterior(prior, MATRIX, Y, 0.3), prior.sample(jax.random.key(0), 50)
    log_likelihood = -0.5 * jnp.sum((Y - x @ MATRIX.T) ** 2, axis=1) / 0.3**2
    joint = prior.log_prob(SDE, x, 0.0) + log_likelihood
    evidence = joint - exact.log_prob(SDE, x, 0.0)  # log p(y), whatever x is
    np.testing.assert_allclose(evidence, evidence[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_without_noise_samples_fit_the_measurement(prior):
    exact = posterior(prior, MATRIX, Y, 0.0)
    x = exact.sample(jax.random.key(0), 100)
    np.testing.assert_allclose(x @ MATRIX.T, jnp.broadcast_to(Y, (100, 2)), atol=3e-3)
    near = posterior(prior, MATRIX, Y, 1e-3)
    if hasattr(exact, "weights"):
        np.testing.assert_allclose(exact.weights, near.weights, atol=1e-3)
        exact, near = exact.components, near.components
    np.testing.assert_allclose(exact.mean, near.mean, atol=1e-3)


def test_rows_of_zeros_say_nothing():
    prior = PRIORS["full mixture"]
    padded = jnp.concatenate([MATRIX, jnp.zeros((1, 3))])
    for std in (0.0, 0.3):
        made = posterior(prior, padded, jnp.append(Y, 0.0), std)
        expected = posterior(prior, MATRIX, Y, std)
        np.testing.assert_allclose(made.weights, expected.weights, atol=1e-4)
        np.testing.assert_allclose(made.components.mean, expected.components.mean, atol=1e-4)


def test_a_grid_has_the_moments_of_the_closed_form():
    prior = GaussianMixture.of(MEANS[:, :2], 0.5)
    matrix, y = jnp.array([[1.0, 1.0]]), jnp.array([0.2])

    def log_density(x):
        return prior.log_prob(SDE, x, 0.0) - 0.5 * jnp.sum((y - x @ matrix.T) ** 2, 1) / 0.5**2

    grid, exact = on_grid(log_density, -4.0, 4.0, 160), posterior(prior, matrix, y, 0.5)
    middles = (grid.components.low + grid.components.high) / 2
    mean = grid.weights @ middles
    np.testing.assert_allclose(mean, exact.weights @ exact.components.mean, atol=1e-3)
    x = grid.sample(jax.random.key(0), 4000)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: posterior(PRIORS["gaussian"], MATRIX, jnp.zeros(3), 0.1), r"must be \[3, 3\]"),
        (lambda: on_grid(lambda x: -jnp.sum(x**2, 1), -1.0, 1.0, 8), "use a larger square"),
        (lambda: on_grid(lambda x: jnp.log(x[:, 0]), -1.0, 1.0, 8), "must not be nan"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(TypeError, match="got Uniform"):
        posterior(Uniform.of([0.0, 0.0], [1.0, 1.0]), MATRIX[:, :2], Y, 0.1)
