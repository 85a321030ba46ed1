"""Scaling and its inverse, flips and dequantization: on the device, a key for each sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sde_diffusion.data import Scaling, dequantize, random_flip

KEYS = jax.random.split(jax.random.key(0), 64)


@pytest.mark.parametrize(("low", "high"), [(0, 16), (0, 255), (-3, 5)])
@pytest.mark.parametrize(("to_low", "to_high"), [(-1, 1), (0, 1)])
def test_scaling_maps_the_ends_of_one_range_to_those_of_the_other(low, high, to_low, to_high):
    scaling = Scaling(low, high, to_low, to_high)
    np.testing.assert_allclose(scaling.scale(jnp.array([low, high])), [to_low, to_high], atol=1e-6)


@pytest.mark.parametrize("to_low", [-1, 0])
def test_every_byte_comes_back_exactly(to_low):
    x = jnp.arange(256, dtype=jnp.uint8)
    scaling = Scaling(0, 255, to_low, 1)
    scaled = jax.jit(scaling.scale)(x)
    np.testing.assert_array_equal(jnp.round(jax.jit(scaling.unscale)(scaled)), x)
    np.testing.assert_array_equal(jax.jit(scaling.to_uint8)(scaled), x)


@settings(deadline=None)
@given(
    st.floats(-100, 100, width=32, allow_subnormal=False),
    st.floats(-10, 10, width=32, allow_subnormal=False),
    st.floats(0.125, 10, width=32, allow_subnormal=False),
)
def test_unscale_undoes_scale_to_rounding(x, low, width):
    scaling = Scaling(low, low + width)
    back = scaling.unscale(scaling.scale(np.float32(x)))
    assert float(back) == pytest.approx(x, abs=1e-6 * (abs(x) + abs(low) + width))


@settings(deadline=None)
@given(st.floats(-100, 100, width=32, allow_subnormal=False))
def test_equal_ranges_change_no_bit(x):
    scaling = Scaling(-1, 1)
    assert float(scaling.scale(np.float32(x))) == x
    assert float(scaling.unscale(np.float32(x))) == x


def test_slope_is_the_derivative_of_scale():
    scaling = Scaling(0, 16)
    assert jax.grad(lambda x: scaling.scale(x))(3.0) == scaling.slope == 2 / 16


def test_pictures_clip_what_lies_outside_the_range():
    np.testing.assert_array_equal(Scaling(0, 16).to_uint8(jnp.array([-9.0, 9.0])), [0, 255])


def test_a_flip_mirrors_whole_images_about_half_of_them():
    x = jnp.arange(64 * 2 * 3 * 2, dtype=jnp.float32).reshape(64, 2, 3, 2)
    y = jax.jit(random_flip)(KEYS, x)
    same = (y == x).all(axis=(1, 2, 3))
    mirrored = (y == x[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 16 < mirrored.sum() < 48


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_flip_keeps_bytes_bytes_for_any_number_of_channels(channels):
    x = jnp.ones((64, 4, 4, channels), jnp.uint8)
    assert random_flip(KEYS, x).dtype == jnp.uint8


def test_dequantized_data_fills_its_bins_evenly():
    x = jnp.full((64, 50, 50), 3, jnp.uint8)
    bins = jax.jit(lambda k, x: dequantize(k, x, 0, 16))(KEYS, x) * 17 / 16 - 3
    assert bins.min() >= -1e-5
    assert bins.max() <= 1 + 1e-5
    counts, _ = np.histogram(bins, bins=10, range=(0, 1))
    np.testing.assert_allclose(counts, bins.size / 10, rtol=0.05)


@pytest.mark.parametrize("shape", [(64, 4, 4, 3), (64, 2)])
def test_dequantized_data_stays_in_its_range_and_rounds_down_to_what_it_was(shape):
    x = jax.random.randint(jax.random.key(1), shape, 0, 256).astype(jnp.uint8)
    y = dequantize(KEYS, x, 0, 255)
    assert y.min() >= 0
    assert y.max() <= 255
    np.testing.assert_array_equal(jnp.floor(y * (256 / 255) + 1e-4).astype(jnp.uint8), x)


@pytest.mark.parametrize("draw", [random_flip, lambda k, x: dequantize(k, x, 0, 255)])
def test_a_sample_depends_on_its_own_key_alone(draw):
    x = jax.random.randint(jax.random.key(1), (64, 4, 4, 3), 0, 256).astype(jnp.uint8)
    np.testing.assert_array_equal(draw(KEYS, x)[5:9], draw(KEYS[5:9], x[5:9]))


def test_what_cannot_be_transformed_is_refused():
    with pytest.raises(ValueError, match=r"images \[B, H, W, C\] to be flipped, got shape \(64, 2"):
        random_flip(KEYS, jnp.ones((64, 2)))
    with pytest.raises(ValueError, match="only uint8 data can be dequantized, got float32"):
        dequantize(KEYS, jnp.ones((64, 2)), 0, 255)
    with pytest.raises(ValueError, match="a range must have low < high"):
        Scaling(1, 1)
