"""The empirical distribution of a data set: a mixture of points, by blocks, at small noise too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

import sde_diffusion as sd
from sde_diffusion.analytic import Empirical, GaussianMixture, empirical

RNG = np.random.default_rng(0)


def reference(data, x, sigma):
    """log p and E[x_0 | x] of EDM in double precision, by differences."""
    squares = np.sum((np.float64(x)[:, None] - np.float64(data)) ** 2, axis=-1)
    log_weights = -0.5 * squares / sigma**2
    log_volume = 0.5 * data.shape[1] * np.log(2 * np.pi * sigma**2) + np.log(len(data))
    return logsumexp(log_weights, axis=1) - log_volume, softmax(log_weights, axis=1) @ data


@pytest.mark.parametrize("dimension", [2, 30])
def test_is_a_mixture_of_points(dimension):
    data, x = RNG.normal(size=(40, dimension)), RNG.normal(size=(5, dimension))
    points, exact = GaussianMixture.of(data, 0.0), Empirical(jnp.asarray(data))
    for method in ("log_prob", "score", "denoise", "noise_variance"):
        of_points, of_rows = (
            jax.jit(functools.partial(getattr(p, method), sd.VP(), t=0.4))(x)
            for p in (points, exact)
        )
        np.testing.assert_allclose(of_rows, of_points, rtol=2e-4, atol=1e-5)


def test_samples_are_rows():
    data = jnp.asarray(RNG.normal(size=(10, 3, 2)))
    x = Empirical(data).sample(jax.random.key(0), 500)
    rows = [int(np.argmin(np.abs(row - data).sum(axis=(1, 2)))) for row in x]
    np.testing.assert_array_equal(x, data[np.array(rows)])
    assert set(rows) == set(range(10))


def test_blocks_change_nothing(monkeypatch):
    data, x = jnp.asarray(RNG.normal(size=(100, 20))), jnp.asarray(RNG.normal(size=(7, 20)))
    whole = Empirical(data).score(sd.EDM(), x, 0.7)
    monkeypatch.setattr(empirical, "BLOCK", 300)
    np.testing.assert_allclose(Empirical(data).score(sd.EDM(), x, 0.7), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5, 2.0])
@pytest.mark.parametrize(("num", "dimension"), [(20_000, 1), (20_000, 2), (2_000, 784)])
def test_float32_has_the_digits_of_float64_at_every_noise(num, dimension, sigma):
    # Pairs of rows that differ little, between which a product of matrices chooses by rounding.
    data = np.float32(RNG.uniform(size=(num // 2, dimension)))
    data = np.concatenate([data, data + np.float32(0.2 * sigma * RNG.normal(size=data.shape))])
    x = np.float32(data[:20] + sigma * RNG.normal(size=(20, dimension)))
    log_prob, denoised = reference(data, x, sigma)
    exact = Empirical(jnp.asarray(data))
    np.testing.assert_allclose(exact.denoise(sd.EDM(), x, sigma), denoised, atol=1e-3 * sigma)
    np.testing.assert_allclose(exact.log_prob(sd.EDM(), x, sigma), log_prob, rtol=1e-5, atol=1e-3)


def test_memory_of_many_images_is_that_of_the_data_and_a_block():
    data = jax.ShapeDtypeStruct((60_000, 28, 28), jnp.float32)
    x = jax.ShapeDtypeStruct((64, 28, 28), jnp.float32)
    score = jax.jit(lambda data, x: Empirical(data).score(sd.VP(), x, 0.5))
    memory = score.lower(data, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 60_000 * 28 * 28 * 4 + 2**28
