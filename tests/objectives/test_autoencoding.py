"""The objective of an autoencoder against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.objectives import (
    AutoencodingWeights,
    autoencoding_objective,
    kl_divergence,
)

KEY = jax.random.key(0)
X = jax.random.uniform(jax.random.key(1), (6, 4, 4, 3), minval=-1.0)


def test_the_divergence_is_the_expected_log_ratio_of_the_densities():
    mean, deviation = jnp.array([[0.5, -2.0, 0.0]]), jnp.array([[0.1, 2.0, 1.0]])
    z = mean + deviation * jax.random.normal(KEY, (200_000, 3))
    ratio = -0.5 * ((z - mean) / deviation) ** 2 - jnp.log(deviation) + 0.5 * z**2
    expected, error = ratio.sum(1).mean(), ratio.sum(1).std() / np.sqrt(len(z))
    assert abs(kl_divergence(mean, deviation)[0] - expected) < 4 * error
    assert kl_divergence(jnp.zeros((1, 5)), jnp.ones((1, 5)))[0] == 0


def loss_of(weights, perceptual=None, deviation=0.5):
    """Of an encoder to half of the image and a decoder that adds 0.1 to what it is given."""

    def encode(params, x):
        return x / 2, jnp.full_like(x, deviation)

    def decode(params, z):
        return 2 * z + 0.1

    objective = autoencoding_objective(encode, decode, lambda key, x: x, weights, perceptual)
    return objective(None, KEY, X, frozen=None, ema=(), step=0)


def test_each_term_has_its_weight():
    sure = {"deviation": 1e-9}  # a latent is its mean
    l1, told = loss_of(AutoencodingWeights(l1=2.0, kl=0.0), **sure)
    np.testing.assert_allclose(l1, 0.2, rtol=1e-4)
    l2, _ = loss_of(AutoencodingWeights(l1=0.0, l2=3.0, kl=0.0), **sure)
    np.testing.assert_allclose(l2, 0.03, rtol=1e-4)
    assert told["psnr"] == pytest.approx(10 * np.log10(4 / 0.01), rel=1e-4)
    both, told = loss_of(AutoencodingWeights(l1=2.0, kl=0.5), **sure)
    kl = kl_divergence(X / 2, jnp.full_like(X, 1e-9))
    np.testing.assert_allclose(both - l1, 0.5 * kl / 48, rtol=1e-4)
    assert told["kl"] == pytest.approx(float(kl.mean()), rel=1e-5)


def test_another_networks_distance_is_a_term():
    apart = lambda made, x: jnp.arange(6.0)  # noqa: E731
    plain, _ = loss_of(AutoencodingWeights())
    more, _ = loss_of(AutoencodingWeights(perceptual=2.0), apart)
    np.testing.assert_allclose(more - plain, 2 * np.arange(6.0), rtol=1e-5)


def test_the_decoder_sees_a_sample_of_the_latents():
    loss, _ = loss_of(AutoencodingWeights(l1=0.0, l2=1.0, kl=0.0))
    # The reconstruction is x + noise of deviation 2 * 0.5, and 0.1.
    assert float(loss.mean()) == pytest.approx(1.01, rel=0.3)
    assert len(set(loss.tolist())) == 6


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (AutoencodingWeights(kl=-1.0), "the weight kl"),
        (AutoencodingWeights(l1=float("nan")), "the weight l1"),
        (AutoencodingWeights(l1=0.0), "l1 or l2"),
    ],
)
def test_weights_that_train_nothing_are_refused(weights, told):
    with pytest.raises(ValueError, match=told):
        loss_of(weights)
