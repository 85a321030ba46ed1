"""The blocks of the U-Nets: residual, attention, and the one that joins an image pyramid."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.networks.attention import attention
from sde_diffusion.networks.dropout import dropout
from sde_diffusion.networks.layers import NIN, Array, Conv, add_skip, dense
from sde_diffusion.networks.normalization import group_norm


class ResnetBlock(nn.Module):
    """x + conv(dropout(act(norm(conv(act(norm(x))) + W embedding)))), [B, H, W, features].

    DDPM's block. BigGAN's has a `resample`, applied to x and to the first act(norm(x)), and
    projects the shortcut by a 1x1 convolution there too. The embedding [B, E] comes activated.
    """

    features: int
    act: Callable[[Array], Array]
    dropout: float
    train: bool
    min_group_size: int
    init_scale: float = 0.0
    skip_rescale: bool = False
    resample: Callable[[Array], Array] | None = None
    nin_shortcut: bool = True

    @nn.compact
    def __call__(self, x: Array, embedding: Array | None) -> Array:
        h = group_norm(x, self.min_group_size, self.act)
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h, shift = Conv(self.features).apart(h)
        if embedding is not None:
            shift = dense(embedding, self.features) + shift
        shift = jnp.broadcast_to(shift, (len(h), self.features))
        h = group_norm(h, self.min_group_size, self.act, shift)
        if self.train and self.dropout > 0:
            h = dropout(self.make_rng("dropout"), h, self.dropout)
        h = Conv(self.features, init_scale=self.init_scale)(h)
        if x.shape[-1] != self.features or self.resample is not None:
            project = NIN(self.features) if self.nin_shortcut else Conv(self.features, 1)
            x = project(x)
        return add_skip(x, h, self.skip_rescale)


class AttnBlock(nn.Module):
    """x + W softmax(q k^T / sqrt(C)) v over all pixels, with one head, [B, H, W, C]."""

    min_group_size: int
    init_scale: float = 0.0
    skip_rescale: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        h = group_norm(x, self.min_group_size)
        h = h.reshape(batch, height * width, 1, channels)
        query, key, value = NIN(channels)(h), NIN(channels)(h), NIN(channels)(h)
        h = attention(query, key, value)
        h = NIN(channels, self.init_scale)(h).reshape(x.shape)
        return add_skip(x, h, self.skip_rescale)


class Combine(nn.Module):
    """The image, projected to h's channels, added to h ("sum") or put before it ("cat")."""

    method: str

    @nn.compact
    def __call__(self, image: Array, h: Array) -> Array:
        image = Conv(h.shape[-1], kernel_size=1)(image)
        return image + h if self.method == "sum" else jnp.concatenate([image, h], axis=-1)
