"""Transformers in a U-Net, between the pixels and from the pixels to a text.

A layer changes the tokens h of an image, given those of the text c [B, S, D], by

    h <- h + attention(norm1(h)),   h <- h + attention(norm2(h), c),   h <- h + ff(norm3(h))

with ff(x) = W2 (a gelu(b)), where a and b are the halves of W1 x. The names of the parameters are
those of diffusers.

Rombach et al. 2022, sec. 3.3; Shazeer 2020 (GEGLU).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.layerwise import SCANNED
from sde_diffusion.networks.attention import attention
from sde_diffusion.networks.layers import Array, Conv, Dense
from sde_diffusion.networks.normalization import GroupNorm, LayerNorm
from sde_diffusion.networks.residual import tokens
from sde_diffusion.networks.scan import scanned


class TextTransformer(nn.Module):
    """x [B, H, W, C] and the tokens of a text [B, S, D] -> [B, H, W, C].

    depth, num_heads: layers, and heads of C / num_heads features.
    linear: whether the projections are dense layers; otherwise they are 1x1 convolutions, the same
        maps with other shapes of their parameters.
    """

    depth: int
    num_heads: int
    groups: int
    linear: bool
    remat: str
    implementation: str

    @nn.compact
    def __call__(self, x: Array, text: Array) -> Array:
        features = x.shape[-1]
        h = GroupNorm(self.groups, epsilon=1e-6, name="norm")(x)
        if self.linear:
            h = Dense(features, name="proj_in")(tokens(h))
        else:
            h = tokens(Conv(features, 1, name="proj_in")(h))
        fields = (self.num_heads, self.implementation)
        if self.depth == 1:
            h, _ = Layer(*fields, name="transformer_blocks.0")(h, text)
        else:
            layers = scanned(
                Layer,
                self.depth,
                remat=self.remat,
                dtype=x.dtype,
                initializing=self.is_initializing(),
            )
            h, _ = layers(*fields, name=f"{SCANNED}_transformer_blocks")(h, text)
        if self.linear:
            return x + Dense(features, name="proj_out")(h).reshape(x.shape)
        return x + Conv(features, 1, name="proj_out")(h.reshape(x.shape))


class Layer(nn.Module):
    """One layer: tokens h [B, T, C] and of the text [B, S, D] -> (h, None)."""

    num_heads: int
    implementation: str

    @nn.compact
    def __call__(self, h: Array, text: Array) -> tuple[Array, None]:
        def attend(name: str, x: Array, other: Array) -> Array:
            return Attention(self.num_heads, self.implementation, name=name)(x, other)

        x = LayerNorm(name="norm1")(h)
        h = h + attend("attn1", x, x)
        h = h + attend("attn2", LayerNorm(name="norm2")(h), text)
        return h + FeedForward(name="ff")(LayerNorm(name="norm3")(h)), None


class Attention(nn.Module):
    """What queries of h [B, T, C] find in keys and values of `other` [B, S, D]: [B, T, C]."""

    num_heads: int
    implementation: str

    @nn.compact
    def __call__(self, h: Array, other: Array) -> Array:
        features = h.shape[-1]

        def heads(name: str, x: Array) -> Array:
            y = Dense(features, use_bias=False, name=name)(x)
            return y.reshape(*y.shape[:2], self.num_heads, features // self.num_heads)

        query, key, value = heads("to_q", h), heads("to_k", other), heads("to_v", other)
        found = attention(query, key, value, implementation=self.implementation)
        return Dense(features, name="to_out.0")(found.reshape(h.shape))


class FeedForward(nn.Module):
    """W2 (a gelu(b)) of tokens h [B, T, C], with a and b of 4 C features."""

    @nn.compact
    def __call__(self, h: Array) -> Array:
        features: Any = h.shape[-1]
        a, b = jnp.split(Dense(8 * features, name="net.0.proj")(h), 2, axis=-1)
        return Dense(features, name="net.2")(a * jax.nn.gelu(b, approximate=False))
