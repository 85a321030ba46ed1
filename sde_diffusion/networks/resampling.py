"""Resampling by two with a finite impulse response (FIR) filter; [1, 1] is plain resampling.

With z the image, zeros inserted between its pixels (up) or not (down) and around it, and k the
filter, normalized so that the mean stays what it was:

    up      y[m] = sum_j k[j] z[m - j + offset]
    down    y[m] = sum_j k[j] z[2 m - j + offset]

along each axis in turn: the filter is separable. It is computed in polyphase form, from the pixels
that z has rather than from the zeros in between, as sums of shifted arrays. Such a sum is the same
kind of sum when transposed, so its gradient is as fast. On a CPU both are a hundred times faster
than a depthwise convolution, which XLA does not vectorize there. A TPU has it the other way round:
every shift is a pass over the image, ten times the cost of a depthwise convolution.

Karras et al. 2020 (StyleGAN2), Zhang 2019 (antialiasing), Song et al. 2021, app. H.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from sde_diffusion.networks.layers import Array, Conv, UpsampleConv

Kernel = tuple[int | float, ...]

BOX: Kernel = (1, 1)
"""Nearest-neighbour upsampling and average pooling."""


def upsample(x: Array, kernel: Kernel = BOX, margin: int = 0) -> Array:
    """[B, H, W, C] -> [B, 2 H, 2 W, C], and margin more pixels on every side."""
    extra = len(kernel) - 2
    pad = ((extra + 1) // 2 + 1 + margin, extra // 2 + margin)
    return _filter_both_axes(x, kernel, up=2, down=1, pad=pad)


def downsample(x: Array, kernel: Kernel = BOX) -> Array:
    """[B, H, W, C] -> [B, H / 2, W / 2, C], for even H and W."""
    extra = len(kernel) - 2
    return _filter_both_axes(x, kernel, up=1, down=2, pad=((extra + 1) // 2, extra // 2))


def blur(x: Array, kernel: Kernel) -> Array:
    """[B, H, W, C] -> [B, H + 1, W + 1, C]: a 3x3 convolution of stride 2 then gives H / 2."""
    return _filter_both_axes(
        x, kernel, up=1, down=1, pad=((len(kernel) + 1) // 2, len(kernel) // 2)
    )


def _filter_both_axes(x: Array, kernel: Kernel, up: int, down: int, pad: tuple[int, int]) -> Array:
    # A convolution, hence the reversed taps; `up` makes good for the zeros that are inserted.
    taps = tuple((np.asarray(kernel, float)[::-1] * up / np.sum(kernel)).tolist())

    def by(implementation: Callable[..., Array]) -> Callable[[Array], Array]:
        return lambda x: implementation(x, taps, up, down, pad)

    filtered: Array = lax.platform_dependent(x, tpu=by(_depthwise), default=by(_by_phases))
    return filtered


def _depthwise(
    x: Array, taps: tuple[float, ...], up: int, down: int, pad: tuple[int, int]
) -> Array:
    channels = x.shape[-1]
    kernel = np.outer(taps, taps)[:, :, None, None].repeat(channels, axis=-1)
    return lax.conv_general_dilated(
        x,
        jnp.asarray(kernel, x.dtype),
        window_strides=(down, down),
        padding=((pad[0], pad[1] + up - 1),) * 2,  # a pixel inserted after the last one, too
        lhs_dilation=(up, up),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
        precision=lax.Precision.HIGHEST,
    )


def _by_phases(
    x: Array, taps: tuple[float, ...], up: int, down: int, pad: tuple[int, int]
) -> Array:
    for axis in (1, 2):
        x = _filter(x, taps, axis, up, down, pad)
    return x


def _filter(
    x: Array, taps: tuple[float, ...], axis: int, up: int, down: int, pad: tuple[int, int]
) -> Array:
    """y[m] = sum_j taps[j] z[m down + j - pad[0]] along one axis, where up or down is 1."""
    length = x.shape[axis]
    size = (length * up + sum(pad) - len(taps)) // down + 1
    phases_in = _split(x, axis, down)
    phases_out = []
    for phase in range(up):
        y = jnp.zeros((), x.dtype)
        for j, tap in enumerate(taps):
            offset = phase + j - pad[0]
            if offset % up == 0:  # otherwise the tap meets inserted zeros alone
                source = phases_in[offset // up % down]
                y += tap * _shift(source, offset // up // down, size // up, axis)
        phases_out.append(y)
    return _interleave(phases_out, axis)


def _shift(x: Array, offset: int, size: int, axis: int) -> Array:
    """y[m] = x[m + offset] for 0 <= m < size, and 0 outside x."""
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (-offset, size + offset - x.shape[axis], 0)
    return lax.pad(x, jnp.zeros((), x.dtype), padding)


def _split(x: Array, axis: int, phases: int) -> tuple[Array, ...]:
    """x[0::phases], x[1::phases], ... along an axis."""
    shape = (*x.shape[:axis], -1, phases, *x.shape[axis + 1 :])
    return jnp.unstack(x.reshape(shape), axis=axis + 1)


def _interleave(phases: list[Array], axis: int) -> Array:
    """The inverse of _split."""
    y = jnp.stack(phases, axis + 1)
    return y.reshape(*y.shape[:axis], -1, *y.shape[axis + 2 :])


class Conv2d(Conv):
    """The convolution beside a FIR filter; its kernel has StyleGAN2's name."""

    kernel_name = "weight"


class Upsample(nn.Module):
    """[B, H, W, C] -> [B, 2 H, 2 W, features], FIR-filtered where a kernel is given.

    Without a convolution, features is C. A filter and its convolution see one zero-padded image:
    what the filter leaves just outside the border goes into the convolution.
    """

    features: int
    with_conv: bool = False
    fir_kernel: Kernel | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if not self.with_conv:
            return upsample(x, self.fir_kernel or BOX)
        if self.fir_kernel is None:
            return UpsampleConv(self.features, name="Conv_0")(x)
        return Conv2d(self.features, padding="VALID")(upsample(x, self.fir_kernel, margin=1))


class Downsample(nn.Module):
    """[B, H, W, C] -> [B, H / 2, W / 2, features], FIR-filtered where a kernel is given.

    Without a convolution, features is C.
    """

    features: int
    with_conv: bool = False
    fir_kernel: Kernel | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if not self.with_conv:
            return downsample(x, self.fir_kernel or BOX)
        if self.fir_kernel is None:
            return Conv(self.features, stride=2)(x)
        return Conv2d(self.features, stride=2, padding="VALID")(blur(x, self.fir_kernel))
