"""Codecs: images to latents and back.

    z = (sample of the encoder's Gaussian - shift) scale,      x = decoder(z / scale + shift)

so that latents have about unit variance, on which the diffusion model works. Rombach et al. 2022,
app. G.
"""

import dataclasses
from typing import Any

import jax

from sde_diffusion import noise
from sde_diffusion.networks.autoencoder_kl import AutoencoderKL, Moments

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Codec:
    """encode(params, key, x) -> z and decode(params, z) -> x, with x [B, H, W, C] in [-1, 1].

    `factor` is the number of pixels along an axis for one of the latents.
    """

    module: AutoencoderKL
    scale: float = 1.0
    shift: float = 0.0

    @property
    def factor(self) -> int:
        return self.module.factor

    def moments(self, params: Any, x: Array) -> Moments:
        """Mean and deviation of the latents of images, each [B, h, w, c], not yet scaled."""
        moments: Any = self.module.apply({"params": params}, x, method="encode")
        return moments

    def encode(self, params: Any, key: Array | None, x: Array) -> Array:
        """Latents [B, h, w, c] of images: a sample, or the mean where key is None.

        Latent i depends on the key, i and image i only.
        """
        moments = self.moments(params, x)
        z = moments.mean
        if key is not None:
            z = sample_latents(noise.sample_keys(key, len(x)), moments)
        return (z - self.shift) * self.scale

    def decode(self, params: Any, z: Array) -> Array:
        """Images of latents, float32, about in [-1, 1]."""
        z = z / self.scale + self.shift
        x: Any = self.module.apply({"params": params}, z, method="decode")
        return x


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The codec of a model of pixels, which are in [-1, 1] where `centered` and else in [0, 1]."""

    centered: bool = True

    factor = 1

    def encode(self, params: Any, key: Array | None, x: Array) -> Array:
        return x if self.centered else 0.5 * x + 0.5

    def decode(self, params: Any, z: Array) -> Array:
        return z if self.centered else 2.0 * z - 1.0


def sample_latents(keys: Array, moments: Moments) -> Array:
    """A sample mean + deviation * noise of each latent's Gaussian, [B, h, w, c]; keys [B]."""
    return moments.mean + moments.deviation * noise.normal(keys, moments.mean)
