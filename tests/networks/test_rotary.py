"""Rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.networks.rotary import rotate, turns

PLACES = np.array([[0, 0], [3, 1], [2, 5]])
SIZES = (4, 8)


def angles():
    return np.concatenate(
        [
            np.outer(PLACES[:, axis], 100.0 ** (-2 * np.arange(size // 2) / size))
            for axis, size in enumerate(SIZES)
        ],
        axis=1,
    )


def test_pairs_of_features_are_turned_as_complex_numbers():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 12)).astype(np.float32)
    numbers = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles())[None, :, None]
    expected = np.stack([numbers.real, numbers.imag], axis=-1).reshape(x.shape)
    y = rotate(x, turns(PLACES, SIZES, theta=100.0))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_turned_in_float32():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 12)).astype(jnp.bfloat16)
    by = turns(PLACES, SIZES)
    expected = rotate(x.astype(jnp.float32), by).astype(jnp.bfloat16)
    np.testing.assert_array_equal(rotate(x, by), expected)


def test_the_gradient_turns_back():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 12))
    by = turns(PLACES, SIZES)
    y, pull = jax.vjp(lambda x: rotate(x, by), x)
    np.testing.assert_allclose(pull(y)[0], x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(4, 7), (12,)])
def test_sizes_are_an_even_number_for_each_axis(sizes):
    with pytest.raises(ValueError, match="are not 2 even numbers"):
        turns(PLACES, sizes)
