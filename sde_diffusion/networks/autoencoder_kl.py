"""AutoencoderKL, the autoencoder of latent diffusion, under diffusers' names for parameters.

An encoder gives mean and log-variance of a Gaussian over latents [B, H / f, W / f, C], with
f = patch_size 2^(levels - 1); a decoder maps latents to images. Those of Stable Diffusion, SDXL,
SD3 and Flux differ in their fields only.

Rombach et al. 2022, "High-resolution image synthesis with latent diffusion models", app. G.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.networks.layers import Array, Conv
from sde_diffusion.networks.normalization import GroupNorm
from sde_diffusion.networks.residual import Downsample, PixelAttention, ResidualBlock, Upsample

EPSILON = 1e-6  # of its group normalizations


class Moments(NamedTuple):
    """Mean and standard deviation of a Gaussian over latents, each [B, h, w, C], in float32."""

    mean: Array
    deviation: Array


class AutoencoderKL(nn.Module):
    """`encode(x)` -> Moments, `decode(z)` -> images; the fields are those of diffusers' config.

    patch_size: the first convolution sees patches of so many pixels on a side as one pixel with all
        their channels, and the last one gives such patches. Above 1, which diffusers does not have,
        no layer works at the full resolution: far less work for small images on a CPU.
    dtype: of the computation; normalizations, softmax and outputs are in float32.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    norm_num_groups: int = 32
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    patch_size: int = 1
    dtype: str = "float32"

    @property
    def factor(self) -> int:
        """The number of pixels along an axis for one of the latents."""
        return int(self.patch_size * 2 ** (len(self.block_out_channels) - 1))

    def setup(self) -> None:
        shared = (self.layers_per_block, self.norm_num_groups, self.mid_block_add_attention)
        self.encoder = Encoder(2 * self.latent_channels, self.block_out_channels, *shared)
        self.decoder = Decoder(
            self.patch_size**2 * self.out_channels, self.block_out_channels, *shared
        )
        if self.use_quant_conv:
            self.quant_conv = Conv(2 * self.latent_channels, 1)
        if self.use_post_quant_conv:
            self.post_quant_conv = Conv(self.latent_channels, 1)

    def __call__(self, x: Array) -> Array:
        """The decoded mean of the latents of x; it uses every parameter."""
        return self.decode(self.encode(x).mean)

    def encode(self, x: Array) -> Moments:
        """Images [B, H, W, C] in [-1, 1] -> Moments of their latents."""
        h = self.encoder(to_patches(x.astype(self.dtype), self.patch_size))
        h = self.quant_conv(h) if self.use_quant_conv else h
        mean, log_variance = jnp.split(h.astype(jnp.float32), 2, axis=-1)
        # diffusers clips at these values too.
        return Moments(mean, jnp.exp(0.5 * jnp.clip(log_variance, -30.0, 20.0)))

    def decode(self, z: Array) -> Array:
        """Latents [B, h, w, C] -> images in [-1, 1], float32, which the decoder may exceed."""
        h = z.astype(self.dtype)
        h = self.post_quant_conv(h) if self.use_post_quant_conv else h
        return from_patches(self.decoder(h).astype(jnp.float32), self.patch_size)


def to_patches(x: Array, size: int) -> Array:
    """[B, H, W, C] -> [B, H / size, W / size, size^2 C]: the pixels of a patch side by side."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.swapaxes(2, 3).reshape(batch, height // size, width // size, size**2 * channels)


def from_patches(x: Array, size: int) -> Array:
    """The inverse of `to_patches`."""
    batch, height, width, features = x.shape
    x = x.reshape(batch, height, width, size, size, features // size**2)
    return x.swapaxes(2, 3).reshape(batch, height * size, width * size, features // size**2)


class Encoder(nn.Module):
    """Images [B, H, W, C] -> [B, H / f, W / f, features]."""

    features: int
    channels: tuple[int, ...]
    layers: int
    groups: int
    attends: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = Conv(self.channels[0], name="conv_in")(x)
        for level, channels in enumerate(self.channels):
            last = level == len(self.channels) - 1
            to_next = None if last else "down"
            name = f"down_blocks.{level}"
            h = Level(channels, self.layers, self.groups, to_next, name=name)(h)
        h = Middle(self.groups, self.attends, name="mid_block")(h)
        h = GroupNorm(self.groups, nn.silu, EPSILON, name="conv_norm_out")(h)
        return Conv(self.features, name="conv_out")(h)


class Decoder(nn.Module):
    """Latents [B, h, w, C] -> images [B, f h, f w, features]."""

    features: int
    channels: tuple[int, ...]
    layers: int
    groups: int
    attends: bool

    @nn.compact
    def __call__(self, z: Array) -> Array:
        h = Conv(self.channels[-1], name="conv_in")(z)
        h = Middle(self.groups, self.attends, name="mid_block")(h)
        for level, channels in enumerate(reversed(self.channels)):
            last = level == len(self.channels) - 1
            to_next = None if last else "up"
            name = f"up_blocks.{level}"
            h = Level(channels, self.layers + 1, self.groups, to_next, name=name)(h)
        h = GroupNorm(self.groups, nn.silu, EPSILON, name="conv_norm_out")(h)
        return Conv(self.features, name="conv_out")(h)


class Level(nn.Module):
    """Residual blocks at one resolution, and the way to the next: "down", "up" or None."""

    features: int
    layers: int
    groups: int
    to_next: str | None

    @nn.compact
    def __call__(self, h: Array) -> Array:
        for i in range(self.layers):
            h = ResidualBlock(self.features, self.groups, EPSILON, name=f"resnets.{i}")(h)
        if self.to_next == "down":
            return Downsample(0, name="downsamplers.0")(h)
        return Upsample(name="upsamplers.0")(h) if self.to_next == "up" else h


class Middle(nn.Module):
    """Two residual blocks with attention between them, [B, h, w, C] -> [B, h, w, C]."""

    groups: int
    attends: bool

    @nn.compact
    def __call__(self, h: Array) -> Array:
        features = h.shape[-1]
        h = ResidualBlock(features, self.groups, EPSILON, name="resnets.0")(h)
        if self.attends:
            h = PixelAttention(self.groups, EPSILON, name="attentions.0")(h)
        return ResidualBlock(features, self.groups, EPSILON, name="resnets.1")(h)
