"""SDEs by name: VP, SubVP, VE, Cosine, EDM and Flow. `base` derives what they have in common."""

from sde_diffusion.sdes.base import SDE, Array, Model, Time, expand, kind
from sde_diffusion.sdes.flow import Flow
from sde_diffusion.sdes.variance_exploding import EDM, VE
from sde_diffusion.sdes.variance_preserving import VP, Cosine, SubVP

KINDS: dict[str, type[SDE]] = {
    "vp": VP,
    "subvp": SubVP,
    "ve": VE,
    "cosine": Cosine,
    "edm": EDM,
    "flow": Flow,
}

__all__ = [
    "EDM",
    "KINDS",
    "SDE",
    "VE",
    "VP",
    "Array",
    "Cosine",
    "Flow",
    "Model",
    "SubVP",
    "Time",
    "expand",
    "kind",
]
