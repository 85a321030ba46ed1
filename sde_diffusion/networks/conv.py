"""Two-dimensional convolution whose gradients are as fast as itself, on a CPU too.

On a CPU, XLA has a fast convolution for one arrangement of the axes only (images NHWC, kernels
HWIO). The gradients of such a convolution are convolutions in other arrangements; XLA rearranges
those in the main part of a program, but not inside a loop (jax 0.10). In a scan over training steps
or over parts of a batch, a step of a U-Net took 50 times as long. Convolution is therefore a
primitive here, bilinear like XLA's own. On a CPU it is always lowered to the fast arrangement, and
to Winograd's algorithm where that is faster. On other devices it is XLA's convolution.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from sde_diffusion.networks import winograd

Array = jax.Array
Padding = tuple[tuple[int, int], ...]

NHWC = ("NHWC", "HWIO", "NHWC")
# Transformed kernels of up to this many numbers, 16 MiB, are made for images of any size.
SMALL = 2**22


def conv2d(x: Array, kernel: Array, stride: int = 1, padding: str = "SAME") -> Array:
    """Correlation of x [B, H, W, C] with kernel [h, w, C, features], [B, H', W', features].

    padding is "SAME" (H' = ceil(H / stride)) or "VALID". Result and products are of x's dtype; the
    gradient of a float32 kernel is summed in float32 also where x is bfloat16, over devices too.
    """
    pads = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), padding)
    return _conv(x, kernel, padding=pads, window_strides=(stride, stride))


def upsample_conv2d(x: Array, kernel: Array) -> Array:
    """conv2d of x [B, H, W, C], its pixels doubled on both axes, with kernel [3, 3, C, features].

    Neighbouring pixels of the doubled image are equal, so the taps that meet equal pixels are added
    first: each of the four phases of the result [B, 2 H, 2 W, features] is a convolution of x
    itself with 2x2 taps, which makes 16 multiplications out of 36.
    """
    batch, height, width, _ = x.shape
    phases = [
        [
            _conv(x, taps, padding=((1 - i, i), (1 - j, j)))
            for j, taps in enumerate(_paired(rows, 1))
        ]
        for i, rows in enumerate(_paired(kernel, 0))
    ]
    y = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
    return y.reshape(batch, 2 * height, 2 * width, -1)


def _paired(kernel: Array, axis: int) -> tuple[Array, Array]:
    """Two taps on x, for the even pixels of the doubled image and for the odd ones."""
    a, b, c = jnp.split(kernel, 3, axis)
    return jnp.concatenate([a, b + c], axis), jnp.concatenate([a + b, c], axis)


def _conv(
    x: Array,
    kernel: Array,
    *,
    padding: Sequence[tuple[int, int]],
    window_strides: tuple[int, int] = (1, 1),
) -> Array:
    return conv_p.bind(
        x,
        kernel,
        window_strides=window_strides,
        padding=tuple(padding),
        lhs_dilation=(1, 1),
        rhs_dilation=(1, 1),
        axes=lax.conv_dimension_numbers(x.shape, kernel.shape, NHWC),
        dtype=x.dtype,
    )


# The primitive's parameters are those of lax.conv_general_dilated; `axes` gives, for each of x,
# kernel and y, where (batch, features), (features out, features in) and the two sizes are, and
# `dtype` is that of y. Products are of the narrower dtype of x and kernel.

conv_p = Primitive("conv2d")


def _as_given(
    x: Array, kernel: Array, *, axes: lax.ConvDimensionNumbers, dtype: Any, **window: Any
) -> Array:
    return lax.conv_general_dilated(
        *_narrowed(x, kernel), dimension_numbers=axes, preferred_element_type=dtype, **window
    )


def _narrowed(x: Array, kernel: Array) -> tuple[Array, Array]:
    dtype = min(x.dtype, kernel.dtype, key=lambda dtype: dtype.itemsize)
    return x.astype(dtype), kernel.astype(dtype)


def _on_cpu(
    x: Array, kernel: Array, *, axes: lax.ConvDimensionNumbers, dtype: Any, **window: Any
) -> Array:
    (b, f, h, w), (o, i, kh, kw), (yb, yf, yh, yw) = axes
    x, kernel = _narrowed(x, kernel)
    x, kernel = jnp.transpose(x, (b, h, w, f)), jnp.transpose(kernel, (kh, kw, i, o))
    if _suits_winograd(x, kernel, **window):
        y = _by_winograd(x, kernel, **window)
    else:
        y = _directly(x, kernel, preferred_element_type=dtype, **window)
    return jnp.moveaxis(y, (0, 1, 2, 3), (yb, yh, yw, yf))


def _directly(x: Array, kernel: Array, **window: Any) -> Array:
    return lax.conv_general_dilated(x, kernel, dimension_numbers=NHWC, **window)


def _by_winograd(x: Array, kernel: Array, *, padding: Padding, **window: Any) -> Array:
    rows, columns = padding
    convolve = partial(_directly, padding=(rows, (0, 0)), **window)
    return winograd.convolve_rows(x, kernel, columns, convolve)


def _suits_winograd(
    x: Array,
    kernel: Array,
    *,
    window_strides: tuple[int, int],
    padding: Padding,
    lhs_dilation: tuple[int, int],
    rhs_dilation: tuple[int, int],
) -> bool:
    height, width = x.shape[1:3]
    # The compiler may make all transformed kernels of a network first. Large ones, of more numbers
    # than the images that they are applied to, would then take more memory than the network.
    channels, features = kernel.shape[2:]
    transformed = len(winograd.G) * kernel.shape[0] * channels * features
    applied_to = x.size // channels * (channels + features)
    return (
        x.dtype == jnp.float32
        and kernel.shape[:2] == (3, 3)
        and window_strides == lhs_dilation == rhs_dilation == (1, 1)
        and (width + sum(padding[1]) - 2) % 4 == 0
        # On less, the sums before and after cost more than the products that they save.
        and min(kernel.shape[2:]) >= 64
        and min(height, width) >= 8
        and transformed <= max(applied_to, SMALL)
    )


# With n, k and m the dilated extents of x, kernel and y along an axis, m = n + low + high - k + 1.
# The paddings of the transposed convolutions follow by counting.


def _transpose_x(
    y: Array,
    x: Any,
    kernel: Array,
    *,
    window_strides: tuple[int, int],
    padding: Padding,
    lhs_dilation: tuple[int, int],
    rhs_dilation: tuple[int, int],
    axes: lax.ConvDimensionNumbers,
    dtype: Any,
) -> Array:
    """x from y: the convolution with the kernel reversed, its strides and dilations exchanged."""
    y, kernel = _narrowed(
        y, kernel
    )  # before the reversal, which XLA then makes part of the product
    x_axes, (o, i, *sizes), y_axes = axes
    n = _extents(x.aval.shape, x_axes[2:], lhs_dilation)
    k = _extents(kernel.shape, sizes, rhs_dilation)
    m = _extents(y.shape, y_axes[2:], window_strides)
    return conv_p.bind(
        y,
        jnp.flip(kernel, sizes),
        window_strides=lhs_dilation,
        padding=_padding(k - 1 - np.array(padding)[:, 0], n + k - m - 1),
        lhs_dilation=window_strides,
        rhs_dilation=rhs_dilation,
        axes=lax.ConvDimensionNumbers(y_axes, (i, o, *sizes), x_axes),
        dtype=x.aval.dtype,
    )


def _transpose_kernel(
    y: Array,
    x: Array,
    kernel: Any,
    *,
    window_strides: tuple[int, int],
    padding: Padding,
    lhs_dilation: tuple[int, int],
    rhs_dilation: tuple[int, int],
    axes: lax.ConvDimensionNumbers,
    dtype: Any,
) -> Array:
    """kernel from y: the convolution of x with y, in which the batch is what is summed over."""
    (b, f, *x_sizes), (o, i, *sizes), (yb, yf, *y_sizes) = axes
    n = _extents(x.shape, x_sizes, lhs_dilation)
    k = _extents(kernel.aval.shape, sizes, rhs_dilation)
    m = _extents(y.shape, y_sizes, window_strides)
    return conv_p.bind(
        x,
        y,
        window_strides=rhs_dilation,
        padding=_padding(np.array(padding)[:, 0], m + k - n - 1),
        lhs_dilation=lhs_dilation,
        rhs_dilation=window_strides,
        axes=lax.ConvDimensionNumbers((f, b, *x_sizes), (yf, yb, *y_sizes), (i, o, *sizes)),
        dtype=kernel.aval.dtype,
    )


def _extents(shape: Sequence[int], sizes: Sequence[int], dilation: Sequence[int]) -> np.ndarray:
    """The sizes with dilation - 1 zeros between neighbours."""
    return (np.array([shape[axis] for axis in sizes]) - 1) * dilation + 1


def _padding(low: np.ndarray, total: np.ndarray) -> Padding:
    return tuple(zip(low.tolist(), (total - low).tolist(), strict=True))


def _batched(args: Sequence[Array], mapped: Sequence[Any], **params: Any) -> tuple[Array, int]:
    return jax.vmap(partial(_as_given, **params), in_axes=tuple(mapped))(*args), 0


def _abstract(x: Any, kernel: Any, **params: Any) -> Any:
    y = jax.eval_shape(partial(_as_given, **params), x, kernel)
    return jax.core.ShapedArray(y.shape, y.dtype)


PARAMETERS = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "axes", "dtype")
conv_p.def_impl(jax.jit(conv_p.bind, static_argnames=PARAMETERS))
conv_p.def_abstract_eval(_abstract)
mlir.register_lowering(conv_p, mlir.lower_fun(_as_given, multiple_results=False))
mlir.register_lowering(conv_p, mlir.lower_fun(_on_cpu, multiple_results=False), platform="cpu")
ad.defbilinear(conv_p, _transpose_x, _transpose_kernel)
batching.primitive_batchers[conv_p] = _batched
