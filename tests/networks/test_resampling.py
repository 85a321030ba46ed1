"""FIR resampling against convolutions done one pixel at a time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from sde_diffusion.networks import resampling
from sde_diffusion.networks.resampling import (
    Downsample,
    Upsample,
    blur,
    downsample,
    upsample,
)

KERNELS = [(1, 1), (1, 2, 1), (1, 3, 3, 1), (1, 2, 4, 8, 1), (5, 1, 0, 2, 3, 1)]
kernels = st.lists(st.integers(1, 9), min_size=2, max_size=6).map(tuple)


def image(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def on_canvas(x, up, margin=16):
    """x with zeros between its pixels (up) and around it: as good as an infinite image."""
    batch, height, width, channels = x.shape
    z = np.zeros((batch, height * up + 2 * margin, width * up + 2 * margin, channels))
    z[:, margin : margin + height * up : up, margin : margin + width * up : up] = x
    return z


def convolve(z, kernel, gain):
    """The true convolution with the normalized separable kernel, y[m] = sum_j k[j] z[m - j]."""
    k = np.outer(kernel, kernel) * gain / np.sum(kernel) ** 2
    y = np.zeros_like(z)
    for i in range(len(kernel)):
        for j in range(len(kernel)):
            y += k[i, j] * np.roll(z, (i, j), axis=(1, 2))
    return y


def crop(z, start, height, width, margin=16):
    first = margin + start
    return z[:, first : first + height, first : first + width]


def correlate(z, weight):
    """y[m] = sum_j w[j] z[m + j - 1] with a 3x3 kernel [3, 3, C, features]."""
    return sum(
        np.roll(z, (1 - i, 1 - j), axis=(1, 2)) @ weight[i, j] for i in range(3) for j in range(3)
    )


@settings(max_examples=25, deadline=None)
@given(kernels)
def test_upsampling_convolves_the_image_with_zeros_inserted(kernel):
    x = image((2, 4, 3, 2))
    filtered = convolve(on_canvas(x, up=2), kernel, gain=4)
    expected = crop(filtered, (len(kernel) - 2) // 2, 8, 6)
    np.testing.assert_allclose(upsample(jnp.asarray(x), kernel), expected, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(kernels)
def test_downsampling_keeps_every_other_pixel_of_the_convolution(kernel):
    x = image((2, 4, 6, 2))
    filtered = convolve(on_canvas(x, up=1), kernel, gain=1)
    expected = crop(filtered, len(kernel) // 2, 4, 6)[:, ::2, ::2]
    np.testing.assert_allclose(downsample(jnp.asarray(x), kernel), expected, atol=1e-5)


def test_the_box_repeats_pixels_and_averages_them():
    x = jnp.asarray(image((2, 4, 6, 3)))
    np.testing.assert_allclose(upsample(x), x.repeat(2, axis=1).repeat(2, axis=2), rtol=1e-6)
    means = x.reshape(2, 2, 2, 3, 2, 3).mean((2, 4))
    np.testing.assert_allclose(downsample(x), means, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_constant_image_keeps_its_mean_inside(kernel):
    x = jnp.full((1, 16, 16, 1), 3.0)
    # Of upsampling the mean alone: what falls between the pixels may get another weight.
    for y in (downsample(upsample(x, kernel)), downsample(x, kernel), blur(x, kernel)):
        np.testing.assert_allclose(y[:, 3:-3, 3:-3], 3.0, rtol=1e-6)


@pytest.mark.parametrize("resample", [upsample, downsample, blur])
def test_the_gradient_is_that_of_finite_differences(resample):
    x = jnp.asarray(image((1, 4, 4, 2)))
    check_grads(lambda x: resample(x, (1, 3, 2, 1)), (x,), order=1, modes=("fwd", "rev"))


@pytest.mark.parametrize("resample", [upsample, downsample, blur])
def test_no_convolution_is_compiled(resample):
    # XLA's depthwise convolution on a CPU takes a hundred times as long.
    x = jnp.ones((2, 8, 8, 4))
    gradient = jax.grad(lambda x: jnp.sum(resample(x, (1, 3, 3, 1)) ** 2))
    assert "convolution" not in jax.jit(gradient).lower(x).as_text()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("resample", [upsample, partial(upsample, margin=1), downsample, blur])
def test_the_depthwise_convolution_of_a_tpu_is_the_sum_of_shifted_arrays(
    resample, kernel, monkeypatch
):
    x = jnp.asarray(image((2, 4, 6, 3)))
    on_cpu = resample(x, kernel)
    monkeypatch.setattr(resampling, "_by_phases", resampling._depthwise)
    assert "convolution" in jax.jit(lambda x: resample(x, kernel)).lower(x).as_text()
    np.testing.assert_allclose(resample(x, kernel), on_cpu, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_upsample_with_a_convolution_sees_one_zero_padded_image(kernel):
    x = image((2, 4, 6, 3))
    module = Upsample(5, with_conv=True, fir_kernel=kernel)
    variables = module.init(jax.random.key(0), x)
    weight = np.asarray(variables["params"]["Conv2d_0"]["weight"])
    filtered = correlate(convolve(on_canvas(x, up=2), kernel, gain=4), weight)
    expected = crop(filtered, (len(kernel) - 2) // 2, 8, 12)
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_downsample_with_a_convolution_sees_one_zero_padded_image(kernel):
    x = image((2, 4, 6, 3))
    module = Downsample(5, with_conv=True, fir_kernel=kernel)
    variables = module.init(jax.random.key(0), x)
    weight = np.asarray(variables["params"]["Conv2d_0"]["weight"])
    filtered = correlate(convolve(on_canvas(x, up=1), kernel, gain=1), weight)
    expected = crop(filtered, len(kernel) // 2, 4, 6)[:, ::2, ::2]
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)


def test_without_a_filter_the_convolution_follows_or_strides():
    x = image((1, 4, 4, 2))
    up, down = Upsample(3, with_conv=True), Downsample(3, with_conv=True)
    up_variables, down_variables = up.init(jax.random.key(0), x), down.init(jax.random.key(0), x)
    repeated = on_canvas(x.repeat(2, axis=1).repeat(2, axis=2), up=1)
    weight = np.asarray(up_variables["params"]["Conv_0"]["kernel"])
    expected = crop(correlate(repeated, weight), 0, 8, 8)
    np.testing.assert_allclose(up.apply(up_variables, x), expected, atol=1e-5)
    weight = np.asarray(down_variables["params"]["Conv_0"]["kernel"])
    # Padded below and to the right alone, as "SAME" is for a stride of 2.
    expected = crop(correlate(on_canvas(x, up=1), weight), 1, 4, 4)[:, ::2, ::2]
    np.testing.assert_allclose(down.apply(down_variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("module", [Upsample(2), Downsample(2)])
def test_without_a_convolution_there_are_no_parameters(module):
    assert module.init(jax.random.key(0), jnp.ones((1, 4, 4, 2))) == {}
