"""Measurement operators: each against another library or by hand, and the laws of all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
from jax.tree_util import Partial

from sde_diffusion import inverse

RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.normal(size=(2, 8, 8, 3)), jnp.float32)
VECTOR = jnp.asarray(RNG.normal(size=(2, 6)), jnp.float32)
MASK = jnp.asarray(RNG.random((8, 8, 1)) < 0.5)
SKEW = jnp.asarray(RNG.random((3, 5)), jnp.float32)
LINEAR = {
    "mask": (inverse.Inpainting(MASK), IMAGE),
    "gray": (inverse.Grayscale(), IMAGE),
    "box": (inverse.Downsampling(2), IMAGE),
    "bicubic": (inverse.Downsampling(2, "bicubic"), IMAGE),
    "blur": (inverse.Blur(SKEW, "reflect"), IMAGE),
    "blur of vectors": (inverse.Blur(jnp.array([0.2, 0.5, 0.3])), VECTOR),
    "sensing": (inverse.CompressedSensing.gaussian(jax.random.key(0), 4, (8, 8, 3)), IMAGE),
    "radon": (inverse.Radon(jnp.array([0.0, 30.0, 90.0])), IMAGE),
    "function": (inverse.Linear(lambda x: jnp.cumsum(x, axis=1)), VECTOR),
    "composed": (inverse.Composed(inverse.Inpainting(MASK), inverse.Blur(SKEW)), IMAGE),
}
NONLINEAR = {
    "phase": (inverse.PhaseRetrieval(1.0), IMAGE),
    "quantized": (inverse.Quantization(0.5), IMAGE),
    "clipped": (inverse.Clipping(-0.5, 0.5), IMAGE),
}
ALL = LINEAR | NONLINEAR


@pytest.mark.parametrize(("operator", "x"), ALL.values(), ids=ALL)
def test_a_measurement_depends_on_its_own_sample(operator, x):
    assert operator.shape(x) == operator(x).shape
    np.testing.assert_allclose(operator(x)[1:], operator(x[1:]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("operator", "x"), LINEAR.values(), ids=LINEAR)
def test_a_transpose_is_the_adjoint(operator, x):
    y = jnp.asarray(RNG.normal(size=operator.shape(x)), jnp.float32)
    for i in range(2):
        forth = jnp.vdot(operator(x)[i], y[i])
        back = jnp.vdot(x[i], operator.transpose(y, x)[i])
        np.testing.assert_allclose(forth, back, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("operator", "x"), LINEAR.values(), ids=LINEAR)
def test_a_matrix_multiplies_as_its_operator_does(operator, x):
    matrix = operator.matrix(x.shape[1:])
    expected = operator(x).reshape(2, -1)
    np.testing.assert_allclose(x.reshape(2, -1) @ matrix.T, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("boundary", "scipys"),
    [("wrap", "wrap"), ("reflect", "mirror"), ("edge", "nearest"), ("zero", "constant")],
)
def test_blur_is_that_of_scipy(boundary, scipys):
    made = inverse.Blur(SKEW, boundary)(IMAGE)
    for channel in range(3):
        expected = scipy.ndimage.convolve(IMAGE[0, ..., channel], SKEW, mode=scipys)
        np.testing.assert_allclose(made[0, ..., channel], expected, rtol=1e-4, atol=1e-5)


def test_kernels_have_sum_1():
    kernel = inverse.gaussian_kernel(5, 1.0)
    assert kernel.shape == (5, 5)
    np.testing.assert_allclose(kernel[2, 1] / kernel[2, 2], np.exp(-0.5), rtol=1e-5)
    stroke = inverse.motion_kernel(5, 0.0)
    np.testing.assert_allclose(stroke.sum(0), jnp.full(5, 0.2), atol=0.08)
    np.testing.assert_allclose(stroke[2].sum(), 1.0, rtol=1e-5)
    rising = inverse.motion_kernel(5, 45.0)  # from the lower left to the upper right
    assert rising[1, 3] > 0.2 < rising[3, 1]
    for each in (kernel, stroke, rising, inverse.gaussian_kernel(7, 2.0, rank=1)):
        np.testing.assert_allclose(each.sum(), 1.0, rtol=1e-5)


def test_low_resolution_is_the_mean_of_squares_or_keys_kernel():
    box = inverse.Downsampling(2)(IMAGE)
    np.testing.assert_allclose(box[0, 1, 2, 0], IMAGE[0, 2:4, 4:6, 0].mean(), rtol=1e-5)

    def keys(d):
        d = abs(d)
        inner, outer = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        return np.where(d < 1, inner, np.where(d < 2, outer, 0.0))

    # The middle of low pixel 2 lies between pixels 4 and 5.
    weights = keys((np.arange(8) - 4.5) / 2)
    weights /= weights.sum()
    rows = np.stack(
        [inverse.Downsampling(2, "bicubic")(jnp.eye(8).reshape(8, 1, 8, 1).repeat(8, 1))]
    )
    np.testing.assert_allclose(rows[0, :, 2, 2, 0], weights, atol=1e-5)


def test_radon_sums_columns_rows_and_keeps_mass():
    image = jnp.zeros((1, 8, 8, 1)).at[:, 2:6, 2:6].set(IMAGE[:1, 2:6, 2:6, :1])
    made = inverse.Radon(jnp.array([0.0, 90.0, 30.0]))(image)
    np.testing.assert_allclose(made[0, 0, :, 0], image.sum(1)[0, :, 0], atol=1e-5)
    np.testing.assert_allclose(
        jnp.sort(made[0, 1, :, 0]), jnp.sort(image.sum(2)[0, :, 0]), atol=1e-5
    )
    smooth = inverse.Blur(inverse.gaussian_kernel(5, 1.5), "zero")(jnp.abs(image))
    rays = inverse.Radon(jnp.array([0.0, 30.0, 75.0]))(smooth).sum((2, 3))[0]
    np.testing.assert_allclose(rays, rays[0], rtol=0.05)


def test_phase_retrieval_is_the_magnitude_of_numpys_transform():
    expected = np.abs(np.fft.fftn(IMAGE, (16, 16), (1, 2), norm="ortho"))
    phase = inverse.PhaseRetrieval(padding=1.0)
    np.testing.assert_allclose(phase(IMAGE), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(phase(-IMAGE), phase(IMAGE), rtol=1e-4)
    assert jnp.all(jnp.isfinite(jax.grad(lambda x: phase(x).sum())(jnp.zeros_like(IMAGE))))


def test_quantization_rounds_the_cosine_transform():
    step = jnp.asarray(RNG.random((8, 8)) + 0.2, jnp.float32)
    spectrum = scipy.fft.dctn(IMAGE[0, ..., 0], norm="ortho")
    expected = scipy.fft.idctn(np.round(spectrum / step) * step, norm="ortho")
    quantized = inverse.Quantization(step)
    np.testing.assert_allclose(quantized(IMAGE)[0, ..., 0], expected, atol=1e-4)
    straight = jax.grad(lambda x: jnp.sum(quantized(x) * IMAGE))(IMAGE)
    np.testing.assert_allclose(straight, IMAGE, atol=1e-5)


def test_noise_is_added_where_something_is_measured_and_by_sample():
    operator = inverse.Inpainting(MASK)
    whole = inverse.measure(jax.random.key(0), operator, IMAGE, 0.1)
    assert jnp.all(jnp.where(MASK, 0.0, whole.y) == 0.0)
    np.testing.assert_allclose(
        jnp.std(whole.y - operator(IMAGE)) / MASK.mean() ** 0.5, 0.1, rtol=0.2
    )
    first = inverse.measure(jax.random.key(0), operator, IMAGE[:1], 0.1)
    np.testing.assert_array_equal(first.y[0], whole.y[0])


BAD = {
    "mask": (inverse.Inpainting(MASK[:4]), "mask has shape \\(4, 8, 1\\)"),
    "mask of one channel": (inverse.Inpainting(jnp.ones((8, 8, 2))), "the shape of a sample"),
    "gray": (inverse.Grayscale((0.5, 0.5)), "2 weights"),
    "factor": (inverse.Downsampling(3), "a size that 3 divides"),
    "kernel": (inverse.Blur(jnp.ones((2, 2))), "odd sizes"),
    "large kernel": (inverse.Blur(jnp.ones((9, 9))), "no larger"),
    "rows": (inverse.CompressedSensing(jnp.ones((2, 5))), "192 numbers"),
    "radon": (inverse.Radon(jnp.zeros(1)), "square images"),
    "block": (inverse.Quantization(0.5, block=5), "5 divides"),
}


@pytest.mark.parametrize(("operator", "message"), BAD.values(), ids=BAD)
def test_a_sample_that_does_not_fit_is_named_before_any_compute(operator, message):
    x = IMAGE[:, :4] if isinstance(operator, inverse.Radon) else IMAGE
    with pytest.raises(ValueError, match=message):
        operator.shape(x)


def test_what_has_no_transpose_is_named():
    with pytest.raises(ValueError, match="PhaseRetrieval is not linear"):
        inverse.PhaseRetrieval().transpose(IMAGE, IMAGE)

    def square(x):
        return x**2

    with pytest.raises(ValueError, match=r"Linear\(square\) has no transpose"):
        inverse.Linear(Partial(square)).transpose(VECTOR, VECTOR)
    with pytest.raises(ValueError, match="needs a linear operator, but Nonlinear"):
        inverse.Nonlinear(square).matrix((6,))
