"""conv2d is XLA's own convolution, and so are its derivatives, however XLA gets to compute them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sde_diffusion.networks.conv import conv2d, upsample_conv2d

# (H, W), kernel size, (C, features), stride, padding. The last ones go by Winograd's algorithm.
CASES = [
    ((7, 9), 3, (3, 5), 1, "SAME"),
    ((7, 9), 3, (3, 5), 2, "SAME"),
    ((8, 8), 3, (3, 5), 2, "SAME"),
    ((9, 8), 3, (3, 5), 2, "VALID"),
    ((6, 5), 1, (4, 2), 1, "SAME"),
    ((6, 7), 4, (2, 3), 1, "SAME"),
    ((7, 7), 2, (2, 3), 3, "VALID"),
    ((8, 12), 3, (64, 72), 1, "SAME"),
    ((9, 10), 3, (64, 64), 1, "VALID"),
]


def xla_conv(x, kernel, stride=1, padding="SAME"):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def arguments(size, kernel_size, channels, dtype=np.float32):
    rng = np.random.default_rng(0)
    c, features = channels
    x = rng.standard_normal((2, *size, c))
    kernel = rng.standard_normal((kernel_size, kernel_size, c, features)) / kernel_size / c**0.5
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def assert_close(actual, expected, rtol=2e-5):
    """Equal to rtol times the largest element: what float32 leaves of a sum of many terms."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=rtol * float(jnp.max(jnp.abs(e))))


def grads(conv):
    """The gradients of sum(sin(conv(x, kernel)))."""
    return jax.jit(jax.grad(lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel))), (0, 1)))


@pytest.fixture(params=CASES, ids=str)
def case(request):
    size, kernel_size, channels, stride, padding = request.param
    x, kernel = arguments(size, kernel_size, channels)
    return (
        lambda x, k: conv2d(x, k, stride, padding),
        lambda x, k: xla_conv(x, k, stride, padding),
        (x, kernel),
    )


def test_value(case):
    ours, xla, args = case
    assert_close(ours(*args), xla(*args))


def test_gradients(case):
    ours, xla, args = case
    assert_close(grads(ours)(*args), grads(xla)(*args))


def test_forward_over_reverse(case):
    ours, xla, args = case

    def hessian_product(conv):
        return jax.jit(lambda *a: jax.jvp(grads(conv), a, a))

    assert_close(hessian_product(ours)(*args), hessian_product(xla)(*args), rtol=5e-5)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_and_its_gradient(axes):
    x, kernel = arguments((6, 6), 3, (3, 4))
    stacked = [
        jnp.stack([a, 2 * a]) if n == 0 else a for a, n in zip((x, kernel), axes, strict=True)
    ]

    assert_close(jax.vmap(grads(conv2d), axes)(*stacked), jax.vmap(grads(xla_conv), axes)(*stacked))


def test_gradients_of_a_vmapped_convolution():
    x, kernel = arguments((6, 6), 3, (3, 4))

    ours, xla = (jax.vmap(conv, (0, None)) for conv in (conv2d, xla_conv))
    assert_close(grads(ours)(x[:, None], kernel), grads(xla)(x[:, None], kernel))


def test_bfloat16():
    args = arguments((8, 8), 3, (64, 64), jnp.bfloat16)
    y = conv2d(*args)
    assert y.dtype == jnp.bfloat16
    exact = xla_conv(*(a.astype(jnp.float32) for a in args))
    assert_close(y.astype(jnp.float32), exact, rtol=2**-8)


def test_the_gradient_of_a_float32_kernel_of_bfloat16_images_is_summed_in_float32():
    # 4096 products of 1 and 1.0078125: in bfloat16 their sum would be rounded to a multiple of 32.
    x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    dy = jnp.full((1, 64, 64, 1), 1.0078125, jnp.bfloat16)
    y, transposed = jax.vjp(lambda kernel: conv2d(x, kernel), jnp.ones((1, 1, 1, 1)))
    (gradient,) = transposed(dy)
    assert (y.dtype, gradient.dtype) == (jnp.bfloat16, jnp.float32)
    assert float(gradient[0, 0, 0, 0]) == 4096 * 1.0078125


def winograd_is_used(x, kernel):
    """Its kernels have one row of taps where those of the convolution have three."""
    text = jax.jit(conv2d).lower(x, kernel).as_text()
    return re.search(r"tensor<3x1x\d+x\d+xf32>\) -> ", text) is not None


def test_winograd_is_not_used_where_its_kernels_are_larger_than_the_images():
    # of a U-Net all transformed kernels may be kept at once, which took more memory than the model
    assert winograd_is_used(*arguments((32, 32), 3, (64, 64)))
    assert not winograd_is_used(*arguments((8, 8), 3, (640, 640)))


def test_winograd_errs_by_a_few_float32_roundings():
    x, kernel = arguments((32, 32), 3, (128, 128))
    assert winograd_is_used(x, kernel)
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    exact = sum(
        padded[:, i : i + 32, j : j + 32] @ np.asarray(kernel[i, j], np.float64)
        for i in range(3)
        for j in range(3)
    )
    error = jax.jit(conv2d)(x, kernel) - exact
    assert np.sqrt(np.mean(error**2)) < 2e-6 * np.sqrt(np.mean(exact**2))


@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_upsampling_convolution_is_that_of_the_doubled_image(size):
    x, kernel = arguments(size, 3, (3, 6))

    def doubled(x, kernel):
        return xla_conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), kernel)

    assert_close(upsample_conv2d(x, kernel), doubled(x, kernel))
    assert_close(grads(upsample_conv2d)(x, kernel), grads(doubled)(x, kernel))


def test_a_cpu_gets_its_fast_arrangement_in_a_loop_too():
    x, kernel = arguments((8, 8), 3, (8, 8))

    def train(kernel):
        def update(kernel, x):
            grad = jax.grad(lambda k: jnp.sum(conv2d(conv2d(x, k), k) ** 2))
            return kernel - 0.1 * grad(kernel), None

        return lax.scan(update, kernel, jnp.stack([x, x]))[0]

    compiled = jax.jit(train).lower(kernel).compile().as_text()
    convolutions = [line for line in compiled.splitlines() if " convolution(" in line]
    assert convolutions
    assert all("dim_labels=b01f_01io->b01f" in line for line in convolutions)
