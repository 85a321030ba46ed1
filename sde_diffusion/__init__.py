"""Diffusion models as stochastic differential equations, in pure functions of JAX.

An SDE says how data becomes noise, a Model what a network says about a noisy sample, and a solver
how noise becomes data. Importing this loads jax and numpy only.
"""

import importlib
from types import ModuleType

from sde_diffusion import (
    analytic,
    comparison,
    density,
    fitting,
    flow_map,
    grids,
    guidance,
    inverse,
    lora,
    noise,
    objectives,
    parameterization,
    samplers,
    sdes,
)
from sde_diffusion.comparison import compare
from sde_diffusion.density import log_likelihood, pushforward
from sde_diffusion.fitting import Fit, fit
from sde_diffusion.flow_map import from_flow_map_network
from sde_diffusion.model import (
    Model,
    from_eps,
    from_network,
    from_score,
    from_v,
    from_velocity,
    from_x0,
)
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers import Samples, Solver, sample
from sde_diffusion.sdes import EDM, SDE, VE, VP, Cosine, Flow, SubVP, Tabulated, kind

__all__ = [
    "EDM",
    "SDE",
    "VE",
    "VP",
    "Cosine",
    "Fit",
    "Flow",
    "Model",
    "Prediction",
    "Samples",
    "Solver",
    "SubVP",
    "Tabulated",
    "analytic",
    "compare",
    "comparison",
    "density",
    "fit",
    "fitting",
    "flow_map",
    "from_eps",
    "from_flow_map_network",
    "from_network",
    "from_score",
    "from_v",
    "from_velocity",
    "from_x0",
    "grids",
    "guidance",
    "inverse",
    "kind",
    "log_likelihood",
    "lora",
    "noise",
    "objectives",
    "parameterization",
    "pushforward",
    "sample",
    "samplers",
    "sdes",
]

# What loads more than jax and numpy is imported when it is first used, as in sd.pretrained.load.
_LATER = ("data", "distributed", "metrics", "networks", "planning", "pretrained", "training")


def __getattr__(name: str) -> ModuleType:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
