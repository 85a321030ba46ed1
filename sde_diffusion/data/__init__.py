"""Data sets by name, batches of them on the host, and transforms of a batch on the device."""

from sde_diffusion.data.pipeline import batches, one_pass
from sde_diffusion.data.source import Source
from sde_diffusion.data.sources import SOURCES, load
from sde_diffusion.data.transforms import Scaling, dequantize, random_flip

__all__ = [
    "SOURCES",
    "Scaling",
    "Source",
    "batches",
    "dequantize",
    "load",
    "one_pass",
    "random_flip",
]
