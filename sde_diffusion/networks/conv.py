"""Two-dimensional convolution whose gradients are as fast as itself, on a CPU too.

On a CPU, XLA has a fast convolution for one arrangement of the axes only (images NHWC, kernels
HWIO). The gradients of such a convolution are convolutions in other arrangements; XLA rearranges
those in the main part of a program, but not inside a loop (jax 0.10): there, in a scan over
training steps or over parts of a batch, they took 30 times as long as the rest. So the convolution
is a primitive here, as bilinear as XLA's own, that a CPU gets in the one arrangement always.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Array = jax.Array

NHWC = ("NHWC", "HWIO", "NHWC")


def conv2d(x: Array, kernel: Array, stride: int = 1, padding: str = "SAME") -> Array:
    """Correlation of x [B, H, W, C] with kernel [h, w, C, features], [B, H', W', features].

    padding is "SAME" (H' = ceil(H / stride)) or "VALID".
    """
    pads = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), padding)
    return _conv(x, kernel, padding=pads, window_strides=(stride, stride))


def upsample_conv2d(x: Array, kernel: Array) -> Array:
    """conv2d of x [B, H, W, C], each pixel doubled along both axes, with kernel [3, 3, C, features].

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
    """The two taps that an even and an odd pixel of the doubled image have for x, [2] on an axis."""
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
    )


# The primitive's parameters are those of lax.conv_general_dilated; `axes` gives, for each of x,
# kernel and y, where (batch, features), (features out, features in) and the two sizes are.

conv_p = Primitive("conv2d")


def _as_given(x: Array, kernel: Array, *, axes: lax.ConvDimensionNumbers, **window: Any) -> Array:
    return lax.conv_general_dilated(x, kernel, dimension_numbers=axes, **window)


def _rearranged(x: Array, kernel: Array, *, axes: lax.ConvDimensionNumbers, **window: Any) -> Array:
    (b, f, h, w), (o, i, kh, kw), (yb, yf, yh, yw) = axes
    x, kernel = jnp.transpose(x, (b, h, w, f)), jnp.transpose(kernel, (kh, kw, i, o))
    y = lax.conv_general_dilated(x, kernel, dimension_numbers=NHWC, **window)
    return jnp.moveaxis(y, (0, 1, 2, 3), (yb, yh, yw, yf))


def _transpose_x(
    y: Array,
    x: Any,
    kernel: Array,
    *,
    window_strides: tuple[int, int],
    padding: tuple[tuple[int, int], ...],
    lhs_dilation: tuple[int, int],
    rhs_dilation: tuple[int, int],
    axes: lax.ConvDimensionNumbers,
) -> Array:
    """x from y: the convolution with the kernel reversed, its strides and dilations exchanged."""
    x_axes, (o, i, *sizes), y_axes = axes
    reach = _extents(kernel, sizes, rhs_dilation)
    spans = zip(_extents(x.aval, x_axes[2:], lhs_dilation), reach, strict=True)
    before = [r - 1 - low for r, (low, _) in zip(reach, padding, strict=True)]
    total = [
        n + r - 1 - m
        for (n, r), m in zip(spans, _extents(y, y_axes[2:], window_strides), strict=True)
    ]
    return conv_p.bind(
        y,
        jnp.flip(kernel, sizes),
        window_strides=lhs_dilation,
        padding=tuple((low, t - low) for low, t in zip(before, total, strict=True)),
        lhs_dilation=window_strides,
        rhs_dilation=rhs_dilation,
        axes=lax.ConvDimensionNumbers(y_axes, (i, o, *sizes), x_axes),
    )


def _transpose_kernel(
    y: Array,
    x: Array,
    kernel: Any,
    *,
    window_strides: tuple[int, int],
    padding: tuple[tuple[int, int], ...],
    lhs_dilation: tuple[int, int],
    rhs_dilation: tuple[int, int],
    axes: lax.ConvDimensionNumbers,
) -> Array:
    """kernel from y: the convolution of x with y, in which the batch is what is summed over."""
    (b, f, *x_sizes), (o, i, *sizes), (yb, yf, *y_sizes) = axes
    total = [
        m + r - n - 1
        for m, r, n in zip(
            _extents(y, y_sizes, window_strides),
            _extents(kernel.aval, sizes, rhs_dilation),
            _extents(x, x_sizes, lhs_dilation),
            strict=True,
        )
    ]
    return conv_p.bind(
        x,
        y,
        window_strides=rhs_dilation,
        padding=tuple((low, t - low) for (low, _), t in zip(padding, total, strict=True)),
        lhs_dilation=lhs_dilation,
        rhs_dilation=window_strides,
        axes=lax.ConvDimensionNumbers((f, b, *x_sizes), (yf, yb, *y_sizes), (i, o, *sizes)),
    )


def _extents(x: Any, sizes: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """The sizes of x with dilation - 1 zeros between its pixels."""
    return [(x.shape[axis] - 1) * d + 1 for axis, d in zip(sizes, dilation, strict=True)]


def _batched(args: Sequence[Array], mapped: Sequence[Any], **params: Any) -> tuple[Array, int]:
    return jax.vmap(partial(_as_given, **params), in_axes=tuple(mapped))(*args), 0


def _abstract(x: Any, kernel: Any, **params: Any) -> Any:
    y = jax.eval_shape(partial(_as_given, **params), x, kernel)
    return jax.core.ShapedArray(y.shape, y.dtype)


PARAMETERS = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "axes")
conv_p.def_impl(jax.jit(conv_p.bind, static_argnames=PARAMETERS))
conv_p.def_abstract_eval(_abstract)
mlir.register_lowering(conv_p, mlir.lower_fun(_as_given, multiple_results=False))
mlir.register_lowering(conv_p, mlir.lower_fun(_rearranged, multiple_results=False), platform="cpu")
ad.defbilinear(conv_p, _transpose_x, _transpose_kernel)
batching.primitive_batchers[conv_p] = _batched
