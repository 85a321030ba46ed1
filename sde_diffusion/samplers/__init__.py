"""Samplers: sample(), the contract of a solver, and one file for each family of solvers."""

from typing import Any

from sde_diffusion.choices import build
from sde_diffusion.samplers.ancestral import DDIM, Ancestral
from sde_diffusion.samplers.blackbox import BlackBox
from sde_diffusion.samplers.corrector import AnnealedLangevin, Langevin, PredictorCorrector
from sde_diffusion.samplers.dpm_solver import DPMSolverPP2M
from sde_diffusion.samplers.euler import Euler, EulerMaruyama, ReverseDiffusion
from sde_diffusion.samplers.heun import Heun
from sde_diffusion.samplers.sample import Samples, sample
from sde_diffusion.samplers.solver import Model, Solver, State

SOLVERS: dict[str, type[Solver]] = {
    "euler": Euler,
    "euler_maruyama": EulerMaruyama,
    "reverse_diffusion": ReverseDiffusion,
    "ancestral": Ancestral,
    "ddim": DDIM,
    "heun": Heun,
    "dpmpp_2m": DPMSolverPP2M,
    "ode": BlackBox,
}

CORRECTORS: dict[str, type[Solver]] = {
    "langevin": Langevin,
    "annealed_langevin": AnnealedLangevin,
}


def named(name: str, **fields: Any) -> Solver:
    """SOLVERS[name](**fields); ValueError lists the choices for an unknown name or field."""
    return build("solver", name, SOLVERS, fields)


__all__ = [
    "CORRECTORS",
    "DDIM",
    "SOLVERS",
    "Ancestral",
    "AnnealedLangevin",
    "BlackBox",
    "DPMSolverPP2M",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "Model",
    "PredictorCorrector",
    "ReverseDiffusion",
    "Samples",
    "Solver",
    "State",
    "named",
    "sample",
]
