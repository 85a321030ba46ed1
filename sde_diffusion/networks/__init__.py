"""Networks in Flax: score networks(x, t, cond, train=...) with an output shaped like x, and others.

Nothing else in the package imports these and they import no SDE: a network of one's own, in any
library, serves as well.
"""

import dataclasses
from typing import Any

from flax import linen as nn

from sde_diffusion.networks.autoencoder_kl import AutoencoderKL
from sde_diffusion.networks.ddpm import DDPM
from sde_diffusion.networks.dit import DiT
from sde_diffusion.networks.flux import Flux
from sde_diffusion.networks.mlp import MLP
from sde_diffusion.networks.mmdit import MMDiT
from sde_diffusion.networks.ncsnpp import NCSNpp
from sde_diffusion.networks.text_dit import TextDiT
from sde_diffusion.networks.two_times import TOWARDS, begin_at, two_times
from sde_diffusion.networks.unet_condition import UNetCondition
from sde_diffusion.networks.uvit import UViT
from sde_diffusion.selection import choose, require_known

NETWORKS: dict[str, type[nn.Module]] = {
    "ddpm": DDPM,
    "ncsnpp": NCSNpp,
    "mlp": MLP,
    "dit": DiT,
    "text_dit": TextDiT,
    "uvit": UViT,
    "unet_condition": UNetCondition,
    "mmdit": MMDiT,
    "flux": Flux,
}
AUTOENCODERS: dict[str, type[nn.Module]] = {"autoencoder_kl": AutoencoderKL}

__all__ = [
    "AUTOENCODERS",
    "DDPM",
    "MLP",
    "NETWORKS",
    "TOWARDS",
    "AutoencoderKL",
    "DiT",
    "Flux",
    "MMDiT",
    "NCSNpp",
    "TextDiT",
    "UNetCondition",
    "UViT",
    "begin_at",
    "build",
    "two_times",
]


def build(name: str, /, **fields: Any) -> nn.Module:
    """The network of that name with these fields; ValueError with the nearest name for neither."""
    network = choose("network", name, NETWORKS | AUTOENCODERS)
    known = [f.name for f in dataclasses.fields(network) if f.name not in ("parent", "name")]
    for field in fields:
        require_known(f"field of network {name!r}", field, known)
    return network(**fields)
