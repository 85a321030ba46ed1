"""The layers that the score networks share.

A layer computes in the dtype of its input, with float32 parameters: the network casts its input
once and everything follows. Normalizations and softmax are in float32 whatever that dtype is, and
so are sums with a bias: products are accumulated in float32, so a bias that is added before they
are rounded needs no pass of its own, and its gradient is summed without rounding.
"""

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from sde_diffusion.networks.conv import conv2d, upsample_conv2d
from sde_diffusion.networks.product import product

Array = jax.Array

AFFINE = "affine"
"""The name of the results of `affine`, for rematerialization."""

GATED = "gated"
"""The name of what is multiplied by a gate, for rematerialization."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "swish": nn.swish,
    "elu": nn.elu,
    "relu": nn.relu,
    "lrelu": partial(nn.leaky_relu, negative_slope=0.2),
}


def default_init(scale: float = 1.0) -> nn.initializers.Initializer:
    """DDPM's initialization; scale 0 means nearly zero, so that gradients still flow."""
    return nn.initializers.variance_scaling(max(scale, 1e-10), "fan_avg", "uniform")


class Conv(nn.Module):
    """Convolution with bias, [B, H, W, C] -> [B, H', W', features].

    `apart` gives its two terms, for a bias that joins others before it is added.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: str = "SAME"
    init_scale: float = 1.0

    kernel_name = "kernel"

    def __call__(self, x: Array) -> Array:
        return add_bias(*self.apart(x))

    @nn.compact
    def apart(self, x: Array) -> tuple[Array, Array]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param(self.kernel_name, default_init(self.init_scale), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return self.convolve(x, kernel), bias

    def convolve(self, x: Array, kernel: Array) -> Array:
        return conv2d(x, kernel, self.stride, self.padding)


class UpsampleConv(Conv):
    """Conv, of kernel size 3, of the image with its pixels doubled: [B, 2 H, 2 W, features]."""

    def convolve(self, x: Array, kernel: Array) -> Array:
        return upsample_conv2d(x, kernel)


class NIN(nn.Module):
    """1x1 convolution ("network in network") as x W + b, [..., C] -> [..., features]."""

    features: int
    init_scale: float = 0.1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        w = self.param("W", default_init(self.init_scale), (x.shape[-1], self.features))
        b = self.param("b", nn.initializers.zeros, (self.features,))
        return affine(x, w, b)


class Dense(nn.Module):
    """x kernel + bias, [..., C] -> [..., features]; without the bias where `use_bias` is False.

    `apart` gives its two terms, for a bias that joins others before it is added. It takes arrays
    side by side, [..., C_1], [..., C_2], ... with C = C_1 + C_2 + ..., without a copy of them.
    """

    features: int
    kernel_init: nn.initializers.Initializer = default_init()
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        if not self.use_bias:
            return checkpoint_name(product(x, kernel).astype(x.dtype), AFFINE)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return affine(x, kernel, bias)

    @nn.compact
    def apart(self, *xs: Array) -> tuple[Array, Array]:
        ends = np.cumsum([x.shape[-1] for x in xs])
        kernel = self.param("kernel", self.kernel_init, (int(ends[-1]), self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        parts = jnp.split(kernel, ends[:-1])
        y = reduce(jnp.add, (product(x, part) for x, part in zip(xs, parts, strict=True)))
        return checkpoint_name(y.astype(xs[0].dtype), AFFINE), bias


def dense(x: Array, features: int, init_scale: float = 1.0) -> Array:
    """A Dense layer of the module that calls this."""
    return Dense(features, default_init(init_scale))(x)


def affine(x: Array, w: Array, bias: Array) -> Array:
    """x w + bias, [..., C] -> [..., features], in the dtype of x; sums are in float32."""
    return checkpoint_name((product(x, w) + bias).astype(x.dtype), AFFINE)


def add_bias(y: Array, bias: Array) -> Array:
    """y + bias, summed in float32 and rounded to y's dtype."""
    return (y.astype(bias.dtype) + bias).astype(y.dtype)


def add_skip(x: Array, h: Array, rescale: bool) -> Array:
    """x + h, over sqrt(2) where asked, so that a sum of two unit variances has unit variance."""
    return (x + h) * 2**-0.5 if rescale else x + h
