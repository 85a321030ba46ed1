"""Codecs: images to latents and back.

    z = (sample of the encoder's Gaussian - shift) scale,      x = decoder(z / scale + shift)

so that latents have about unit variance, on which the diffusion model works. Rombach et al. 2022,
app. G.
"""

import dataclasses
import os
from typing import Any

import jax

from sde_diffusion import noise
from sde_diffusion.networks.autoencoder_kl import AutoencoderKL
from sde_diffusion.pretrained.kinds import AUTOENCODER_KL
from sde_diffusion.pretrained.part import read_part

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
        return 2 ** (len(self.module.block_out_channels) - 1)

    def encode(self, params: Any, key: Array | None, x: Array) -> Array:
        """Latents [B, h, w, c] of images: a sample, or the mean where key is None.

        Latent i depends on the key, i and image i only.
        """
        moments: Any = self.module.apply({"params": params}, x, method="encode")
        z = moments.mean
        if key is not None:
            z = z + moments.deviation * noise.normal(noise.sample_keys(key, len(x)), z)
        return (z - self.shift) * self.scale

    def decode(self, params: Any, z: Array) -> Array:
        """Images of latents, float32, about in [-1, 1]."""
        z = z / self.scale + self.shift
        x: Any = self.module.apply({"params": params}, z, method="decode")
        return x


def read_codec(folder: str | os.PathLike[str], **options: Any) -> tuple[Codec, Any]:
    """The codec in the folder `vae` of a pipeline, and its parameters.

    The options and errors are those of `part.read_part`.
    """
    module, params, config = read_part(folder, AUTOENCODER_KL, **options)
    # Where a config has no factor, diffusers takes that of Stable Diffusion 1.
    scale, shift = config.get("scaling_factor", 0.18215), config.get("shift_factor")
    return Codec(module, 1.0 if scale is None else scale, shift or 0.0), params
