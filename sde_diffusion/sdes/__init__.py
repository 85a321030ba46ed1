"""SDEs by name: VP, SubVP, VE, Cosine, EDM, Flow, and Tabulated for a published chain.

`base` derives what they have in common.
"""

from collections.abc import Callable

from sde_diffusion.sdes.base import SDE, Array, Time, expand, kind
from sde_diffusion.sdes.flow import Flow
from sde_diffusion.sdes.tabulated import Tabulated, tabulated
from sde_diffusion.sdes.variance_exploding import EDM, VE
from sde_diffusion.sdes.variance_preserving import VP, Cosine, SubVP

# What makes an SDE of plain values, by the name that a config or a command line has for it.
KINDS: dict[str, Callable[..., SDE]] = {
    "vp": VP,
    "subvp": SubVP,
    "ve": VE,
    "cosine": Cosine,
    "edm": EDM,
    "flow": Flow,
    "tabulated": tabulated,
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
    "SubVP",
    "Tabulated",
    "Time",
    "expand",
    "kind",
    "tabulated",
]
