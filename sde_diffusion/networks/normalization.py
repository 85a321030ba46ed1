"""Normalization: of layers, and of groups as one multiplication and one addition a pixel.

With m and v the mean and variance of a sample's group of channels,

    GroupNorm(x + shift) = a x + b,   a = scale / sqrt(v + epsilon),   b = bias + (shift - m) a,

where a, b and shift are [B, C], and m and v follow from the means of x and of x^2 over the pixels.
So the image is read once for those two means, in the operation that makes it, and once to be
normalized, in the operation that uses it. What is added to all pixels before, a bias or what tells
the noise level, costs no pass over the image, and neither does its gradient.

Wu & He 2018.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from sde_diffusion.networks.sums import spread, total

Array = jax.Array


def num_groups(channels: int, min_group_size: int) -> int:
    """The most groups of GroupNorm, up to 32, that divide the channels and are not too small.

    The reference takes min(C // min_group_size, 32) and fails where that does not divide C; this is
    the same where it does, and allows any C.
    """
    most = max(1, min(channels // min_group_size, 32))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


class GroupNorm(nn.Module):
    """act(GroupNorm of x [B, H, W, C] + shift [B, C]), computed in float32, of x's dtype."""

    num_groups: int
    act: Callable[[Array], Array] = jax.nn.identity
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array, shift: Array | None = None) -> Array:
        channels, dtype = x.shape[-1], x.dtype
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x = x.astype(jnp.float32)
        shift = jnp.zeros((), jnp.float32) if shift is None else shift.astype(jnp.float32)
        mean_x, square_x = jnp.mean(x, axis=(1, 2)), jnp.mean(x * x, axis=(1, 2))
        # By a matrix: on a TPU it takes half the time of a sum and a repetition.
        average = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
        same = _over_groups(channels, self.num_groups)
        mean = average(mean_x + shift, same)
        square = average(square_x + shift * (2 * mean_x + shift), same)
        a = scale * lax.rsqrt(jnp.maximum(square - mean * mean, 0) + self.epsilon)
        b = bias + (shift - mean) * a
        return _activated(self.act, dtype, x, a, b)


@lru_cache(maxsize=128)  # a program stores an array once if all its layers use the same object
def _over_groups(channels: int, groups: int) -> np.ndarray:
    """The matrix that gives each channel the mean over its group, [C, C]."""
    size = channels // groups
    group = np.arange(channels) // size
    return np.equal.outer(group, group).astype(np.float32) / np.float32(size)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) scale + bias over the last axis, of x's dtype.

    It is computed in float32. Ba et al. 2016.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return (standardized(x, self.epsilon) * scale + bias).astype(x.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def standardized(x: Array, epsilon: float) -> Array:
    """(x - mean) / sqrt(variance + epsilon) over the last axis, in float32.

    With y the result and s = 1 / sqrt(variance + epsilon), its derivative along dx is
    s (dx - mean(dx) - y mean(y dx)), which as a matrix is its own transpose.
    """
    return _standardized(x, epsilon)[0]


def _standardized(x: Array, epsilon: float) -> tuple[Array, Array]:
    """The same, and 1 / sqrt(variance + epsilon), repeated."""
    dtype, y = x.dtype, x.astype(jnp.float32)
    centered = y - _average(y, dtype)
    inverse = lax.rsqrt(_average(centered * centered, dtype) + epsilon)
    return centered * inverse, inverse


@standardized.defjvp
def _(epsilon: float, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    dtype, dx = x.dtype, dx.astype(jnp.float32)
    y, inverse = _standardized(x, epsilon)
    return y, inverse * (dx - _average(dx, dtype) - y * _average(y * dx, dtype))


def _average(x: Array, dtype: Any) -> Array:
    """The mean over the last axis, repeated along it."""
    size = x.shape[-1]
    return spread(total(x, (-1,), dtype) / size, (-1,), (size,), dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean of x^2 + epsilon) scale over the last axis, of x's dtype.

    It is computed in float32. Zhang & Sennrich 2019.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        y = x.astype(jnp.float32)
        square = jnp.mean(y * y, axis=-1, keepdims=True)
        return (y * lax.rsqrt(square + self.epsilon) * scale).astype(x.dtype)


def _plainly(
    act: Callable[[Array], Array], dtype: jnp.dtype, x: Array, a: Array, b: Array
) -> Array:
    return act(a[:, None, None] * x + b[:, None, None]).astype(dtype)


_activated = jax.custom_jvp(_plainly, nondiff_argnums=(0, 1))


@_activated.defjvp
def _(act: Any, dtype: jnp.dtype, primals: Any, tangents: Any) -> tuple[Array, Array]:
    # The gradients of a and b are sums over the pixels, and that of x needs what comes of the sums.
    # Without the barrier, which the gradient dy meets on its way to x, a TPU has both read
    # act'(.) dy from one array, in float32. With it each reads dy itself, in y's dtype.
    x, a, b = primals
    y, by_a_and_b = jax.jvp(partial(_plainly, act, dtype, x), (a, b), tangents[1:])
    _, by_x = jax.jvp(lambda x: _plainly(act, dtype, x, a, b), (x,), tangents[:1])
    by_x = lax.platform_dependent(by_x, tpu=lax.optimization_barrier, default=jax.nn.identity)
    return y, by_a_and_b + by_x


def group_norm(
    x: Array,
    min_group_size: int,
    act: Callable[[Array], Array] = jax.nn.identity,
    shift: Array | None = None,
) -> Array:
    """act(GroupNorm of x + shift), a GroupNorm of the module that calls this."""
    return GroupNorm(num_groups(x.shape[-1], min_group_size), act)(x, shift)
