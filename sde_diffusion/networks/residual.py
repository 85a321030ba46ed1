"""What the U-Nets and autoencoders of diffusers are made of, under its names for parameters.

A residual block is

    h = conv1(silu(norm1(x))),   y = (x + conv2(silu(norm2(h + proj(silu(embedding)))))) / c

where x passes a 1x1 convolution, `conv_shortcut`, if the number of channels changes, and the
embedding of the time is absent in an autoencoder. c is 1, or sqrt(2) in NCSN++. Another form scales
and shifts what is normalized, with proj(silu(embedding)) = (a, b):

    y = (x + conv2(silu((1 + a) norm2(h) + b))) / c

He et al. 2016; Ho et al. 2020, app. B; the other form: Nichol & Dhariwal 2021.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sde_diffusion.networks.attention import attention
from sde_diffusion.networks.layers import Array, Conv, Dense, UpsampleConv
from sde_diffusion.networks.normalization import GroupNorm


class ResidualBlock(nn.Module):
    """x [B, H, W, C] and an embedding [B, D] or None -> [B, H, W, features].

    groups_out: of the second normalization; None stands for `groups`.
    scale: c, by which the sum is divided.
    resample: a change of resolution, of x and of what the first normalization gives.
    shortcut: whether x passes `conv_shortcut` whatever its channels.
    scale_shift: whether the embedding scales and shifts what is normalized.
    """

    features: int
    groups: int
    epsilon: float
    groups_out: int | None = None
    scale: float = 1.0
    resample: Callable[[Array], Array] | None = None
    shortcut: bool = False
    scale_shift: bool = False

    @nn.compact
    def __call__(self, x: Array, embedding: Array | None = None) -> Array:
        h = GroupNorm(self.groups, nn.silu, self.epsilon, name="norm1")(x)
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = Conv(self.features, name="conv1")(h)
        groups = self.groups if self.groups_out is None else self.groups_out
        told = None
        if embedding is not None:
            features = (1 + self.scale_shift) * self.features
            told = Dense(features, name="time_emb_proj")(nn.silu(embedding))
        if self.scale_shift and told is not None:
            a, b = jnp.split(told[:, None, None], 2, axis=-1)
            h = GroupNorm(groups, epsilon=self.epsilon, name="norm2")(h)
            h = nn.silu((1 + a) * h + b)
        else:
            h = GroupNorm(groups, nn.silu, self.epsilon, name="norm2")(h, told)
        h = Conv(self.features, name="conv2")(h)
        if x.shape[-1] != self.features or self.shortcut:
            x = Conv(self.features, 1, name="conv_shortcut")(x)
        return over(x + h, self.scale)


class PixelAttention(nn.Module):
    """(x + attention between the pixels) / scale, [B, h, w, C] -> [B, h, w, C].

    groups: of the normalization before it; None stands for no normalization.
    """

    groups: int | None
    epsilon: float
    num_heads: int = 1
    scale: float = 1.0
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        features = x.shape[-1]
        h = x
        if self.groups is not None:
            h = GroupNorm(self.groups, epsilon=self.epsilon, name="group_norm")(x)
        h = tokens(h)

        def heads(name: str) -> Array:
            y = Dense(features, name=name)(h)
            return y.reshape(*y.shape[:2], self.num_heads, features // self.num_heads)

        query, key, value = heads("to_q"), heads("to_k"), heads("to_v")
        found = attention(query, key, value, implementation=self.implementation)
        h = Dense(features, name="to_out.0")(found.reshape(h.shape))
        return over(x + h.reshape(x.shape), self.scale)


def over(x: Array, scale: float) -> Array:
    """x / scale, of x's dtype."""
    return x if scale == 1.0 else x / scale


class Downsample(nn.Module):
    """Convolution of stride 2, [B, H, W, C] -> [B, H', W', C].

    `before` zeros are padded on the top and on the left, and one on the bottom and on the right:
    one in a U-Net, none in an autoencoder.
    """

    before: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        around = (self.before, 1)
        padded = jnp.pad(x, ((0, 0), around, around, (0, 0)))
        return Conv(x.shape[-1], stride=2, padding="VALID", name="conv")(padded)


class Upsample(nn.Module):
    """Convolution of the image with its pixels doubled, to the size (H', W') where it is given.

    [B, H, W, C] -> [B, H', W', C], where (H', W') is (2 H, 2 W) by default. Another size is that of
    an image that was halved and rounded up, so it is smaller by one.
    """

    @nn.compact
    def __call__(self, x: Array, size: tuple[int, ...] | None = None) -> Array:
        features = x.shape[-1]
        if size is None or size == (2 * x.shape[1], 2 * x.shape[2]):
            return UpsampleConv(features, name="conv")(x)
        rows, columns = (np.arange(n) * m // n for n, m in zip(size, x.shape[1:3], strict=True))
        return Conv(features, name="conv")(x[:, rows][:, :, columns])


class TimeEmbedding(nn.Module):
    """linear_2(silu(linear_1(h))), [B, C] -> [B, features]; h is h + cond_proj(told) where told."""

    features: int

    @nn.compact
    def __call__(self, h: Array, told: Array | None = None) -> Array:
        if told is not None:
            h = h + Dense(h.shape[-1], use_bias=False, name="cond_proj")(told)
        h = nn.silu(Dense(self.features, name="linear_1")(h))
        return Dense(self.features, name="linear_2")(h)


def time_features(t: Array, features: int, *, cosine_first: bool, frequency_shift: float) -> Array:
    """Sines and cosines of w_i t, [...] -> [..., features], in float32.

    w_i = 10000^(-i / (n - frequency_shift)), i = 0, ..., n - 1, with n = features / 2. Vaswani et
    al. 2017, sec. 3.5, as in Ho et al. 2020.
    """
    half = features // 2
    exponent = -np.log(10_000.0) * np.arange(half, dtype=np.float32) / (half - frequency_shift)
    angles = t.astype(jnp.float32)[..., None] * np.exp(exponent).astype(np.float32)
    parts = (jnp.cos, jnp.sin) if cosine_first else (jnp.sin, jnp.cos)
    return jnp.concatenate([function(angles) for function in parts], axis=-1)


def tokens(x: Array) -> Array:
    """[B, H, W, C] -> [B, H W, C]."""
    return jax.lax.reshape(x, (x.shape[0], x.shape[1] * x.shape[2], x.shape[3]))
