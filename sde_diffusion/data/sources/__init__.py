"""Data sets by name: one function a kind, each from its fields to a Source."""

import inspect
from collections.abc import Callable
from typing import Any

from sde_diffusion.data import held_out
from sde_diffusion.data.source import Source
from sde_diffusion.data.sources.array_record import array_record
from sde_diffusion.data.sources.arrays import npy, npz
from sde_diffusion.data.sources.cifar10 import cifar10
from sde_diffusion.data.sources.digits import PARTS as DIGITS_PARTS
from sde_diffusion.data.sources.digits import digits
from sde_diffusion.data.sources.folder import folder
from sde_diffusion.data.sources.latents import latents
from sde_diffusion.data.sources.mixture2d import mixture2d
from sde_diffusion.data.sources.openmoji import openmoji
from sde_diffusion.data.sources.tfds import tfds
from sde_diffusion.data.sources.webdataset import webdataset
from sde_diffusion.selection import choose, require_known

SOURCES: dict[str, Callable[..., Source]] = {
    "array_record": array_record,
    "cifar10": cifar10,
    "digits": digits,
    "folder": folder,
    "latents": latents,
    "mixture2d": mixture2d,
    "npy": npy,
    "npz": npz,
    "openmoji": openmoji,
    "tfds": tfds,
    "webdataset": webdataset,
}

# What the field `part` of a source may be, such as what is held out of training.
PARTS: dict[str, tuple[str, ...]] = {"digits": tuple(DIGITS_PARTS), "openmoji": held_out.PARTS}


def load(name: str, **fields: Any) -> Source:
    """SOURCES[name](**fields), such as load("folder", path="birds", channels=3).

    Raises:
        ValueError: the name or a field is unknown (with the nearest), or a field is missing.
    """
    make = choose("data source", name, SOURCES)
    parameters = inspect.signature(make).parameters
    for field in fields:
        require_known(f"field of data source {name!r}", field, parameters)
    for field, parameter in parameters.items():
        if parameter.default is parameter.empty and field not in fields:
            raise ValueError(f"data source {name!r} needs the field {field!r}")
    return make(**fields)
