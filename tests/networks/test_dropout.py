"""Dropout keeps what it should, independently from element to element, mask to mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sde_diffusion.networks.dropout import dropout

SHAPE = (32, 16, 16, 32)


def dropped(seed, rate, shape=SHAPE):
    return np.asarray(dropout(jax.random.key(seed), jnp.ones(shape), rate) == 0)


def z_score(count, trials, probability):
    """By how many standard deviations a count of independent events differs from its mean."""
    deviation = np.sqrt(trials * probability * (1 - probability))
    return np.max(np.abs(count - trials * probability)) / deviation


def test_elements_are_zero_or_scaled_so_that_the_mean_stays():
    x = jax.random.normal(jax.random.key(0), SHAPE)
    y = dropout(jax.random.key(1), x, 0.25)
    np.testing.assert_allclose(y, np.where(dropped(1, 0.25), 0, x / 0.75), rtol=1e-6)


def test_bfloat16_is_scaled_in_float32_and_rounded_once():
    x = jax.random.normal(jax.random.key(0), SHAPE, jnp.bfloat16)
    y = dropout(jax.random.key(1), x, 0.1)
    exact = dropout(jax.random.key(1), x.astype(jnp.float32), 0.1)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_rate_is_that_of_every_slice(rate, seed):
    mask = dropped(seed, rate)
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        assert z_score(mask.sum(others), mask.size // mask.shape[axis], rate) < 4.5


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("distance", [1, 2, 4, 8])
def test_neighbours_are_dropped_independently(axis, distance):
    mask = dropped(0, 0.5)
    agree = np.sum(mask == np.roll(mask, distance, axis))
    assert z_score(agree, mask.size, 0.5) < 4.5


def test_masks_of_different_keys_are_independent():
    masks = [dropped(seed, 0.5) for seed in range(20)]
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert z_score(np.sum(mask == other), mask.size, 0.5) < 4.5


def test_the_mask_is_the_same_however_the_samples_are_spread():
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    spread = jax.device_put(jnp.ones(SHAPE), NamedSharding(mesh, P("data")))
    y = jax.jit(lambda x: dropout(jax.random.key(0), x, 0.5))(spread)
    np.testing.assert_array_equal(np.asarray(y) == 0, dropped(0, 0.5))
