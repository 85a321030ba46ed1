"""Gaussians and their mixtures against scipy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import sde_diffusion as sd
from sde_diffusion.analytic import Gaussian, GaussianMixture, Mixture

X = np.array([[0.3, -0.2], [-1.5, 2.0], [4.0, 0.0]])
COVARIANCE = np.array([[0.5, 0.2], [0.2, 0.3]])
MEANS = np.array([[1.0, 0.0], [-1.0, 0.5]])


def noised(sde, t, mean, covariance):
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    covariance = alpha**2 * np.asarray(covariance) + sigma**2 * np.eye(2)
    return stats.multivariate_normal(alpha * np.asarray(mean), covariance)


@pytest.mark.parametrize("covariance", [0.3, np.array([0.5, 0.2]), COVARIANCE])
def test_gaussian_density_is_that_of_scipy(covariance):
    sde, t, mean = sd.VP(), 0.3, np.array([1.0, -0.5])
    exact, full = Gaussian.of(mean, covariance), covariance * np.eye(2)
    full = covariance if np.ndim(covariance) == 2 else full
    np.testing.assert_allclose(exact.covariance, full, rtol=1e-5, atol=1e-7)
    expected = noised(sde, t, mean, full).logpdf(X)
    np.testing.assert_allclose(exact.log_prob(sde, X, t), expected, rtol=1e-5)


def test_a_covariance_without_full_rank_is_taken():
    exact = Gaussian.of(np.zeros(3), np.ones((3, 3)))
    x = exact.sample(jax.random.key(0), 100)
    np.testing.assert_allclose(x, x[:, :1] * np.ones(3), atol=1e-2)


@pytest.mark.parametrize("weights", [None, np.array([0.3, 0.7])])
def test_mixture_density_is_that_of_scipy(weights):
    sde, t, std = sd.EDM(), 0.7, np.array([0.3, 0.5])
    components = [noised(sde, t, m, s**2 * np.eye(2)) for m, s in zip(MEANS, std, strict=True)]
    shares = [0.5, 0.5] if weights is None else weights
    expected = np.log(sum(w * p.pdf(X) for w, p in zip(shares, components, strict=True)))
    mixture = GaussianMixture.of(MEANS, std, weights)
    np.testing.assert_allclose(mixture.log_prob(sde, X, t), expected, rtol=1e-4)


def test_a_full_mixture_is_that_of_its_components():
    covariances = np.stack([COVARIANCE, 0.1 * np.eye(2)])
    full = GaussianMixture.full(MEANS, covariances, np.array([0.3, 0.7]))
    parts = [Gaussian.of(m, c) for m, c in zip(MEANS, covariances, strict=True)]
    mixed = Mixture.of(parts, np.array([0.3, 0.7]))
    expected = np.log(
        0.3 * noised(sd.VP(), 0.3, MEANS[0], covariances[0]).pdf(X)
        + 0.7 * noised(sd.VP(), 0.3, MEANS[1], covariances[1]).pdf(X)
    )
    for mixture in (full, mixed):
        assert mixture.event == (2,)
        np.testing.assert_allclose(mixture.log_prob(sd.VP(), X, 0.3), expected, rtol=1e-4)


def test_gaussian_loss_is_its_closed_form_for_any_key():
    exact, t = Gaussian.of(jnp.zeros(2), COVARIANCE), jnp.array([0.3, 2.0])
    variances = np.linalg.eigvalsh(COVARIANCE)
    expected = [np.mean(variances / (variances + s**2)) for s in (0.3, 2.0)]
    np.testing.assert_allclose(exact.loss(sd.EDM(), t), expected, rtol=1e-5)
    np.testing.assert_allclose(exact.loss(sd.EDM(), t, jax.random.key(7)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianMixture.of(np.zeros(3), 0.1), r"means must be \[K, D\] and std"),
        (lambda: GaussianMixture.of(MEANS, np.ones(3)), r"got shapes \(2, 2\) and \(3,\)"),
        (lambda: GaussianMixture.of(MEANS, 0.1, np.ones(3)), r"weights must be \[2\]"),
        (lambda: GaussianMixture.full(MEANS, COVARIANCE), r"covariances \[K, D, D\]"),
        (lambda: Mixture.of([]), "one kind and shape, got none"),
        (
            lambda: Mixture.of([Gaussian.of(np.zeros(n), 1.0) for n in (2, 3)]),
            r"got Gaussian\[2\], Gaussian\[3\]",
        ),
    ],
)
def test_what_makes_no_mixture_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("of", ["x", "t", "means", "std"])
def test_an_isotropic_mixture_and_its_derivatives_are_those_of_full_covariances(of):
    # Written as products of matrices, they have nothing in common but the density.
    rng = np.random.default_rng(0)
    given = {
        "x": rng.standard_normal((5, 3)),
        "t": np.array([0.1, 0.3, 0.5, 0.7, 0.9]),
        "means": rng.standard_normal((4, 3)),
        "std": np.array([0.1, 0.3, 0.5, 0.9]),
    }

    def model(mixture: Mixture, x: jax.Array, t: jax.Array) -> jax.Array:
        prediction = mixture.model(sd.VP())(x, t)
        return jnp.stack([prediction.score, prediction.x0])

    def fast(value: jax.Array) -> jax.Array:
        x, t, means, std = (given | {of: value}).values()
        return model(GaussianMixture.of(means, std), x, t)

    def full(value: jax.Array) -> jax.Array:
        x, t, means, std = (given | {of: value}).values()
        variances = jnp.broadcast_to(std[:, None] ** 2, (4, 3))
        return model(Mixture(Gaussian(means, variances), jnp.full(4, 0.25)), x, t)

    with jax.enable_x64(True):
        for derivative in (lambda f: f, jax.jacfwd, jax.jacrev):
            # Compiled: op by op it takes ten times as long.
            np.testing.assert_allclose(
                jax.jit(derivative(fast))(given[of]),
                jax.jit(derivative(full))(given[of]),
                rtol=1e-6,
                atol=1e-8,
            )
