"""Samplers: sample(), the contract of a solver, and one file for each family of solvers."""

from typing import Any

from sde_diffusion.samplers.ancestral import DDIM, Ancestral
from sde_diffusion.samplers.black_box import BlackBox
from sde_diffusion.samplers.corrector import (
    MALA,
    ULA,
    AnnealedLangevin,
    Langevin,
    PredictorCorrector,
)
from sde_diffusion.samplers.dpm_solver_adaptive import AdaptiveDPMSolver
from sde_diffusion.samplers.dpm_solver_fast import DPMSolverFast
from sde_diffusion.samplers.euler import Euler, EulerMaruyama, ReverseDiffusion
from sde_diffusion.samplers.fitted import Fitted, FittedGrid
from sde_diffusion.samplers.heun import EDMSampler, Heun
from sde_diffusion.samplers.multistep import DEIS, IPNDM, DPMSolverPP2M, DPMSolverPP3M
from sde_diffusion.samplers.paradigms import ParaDiGMS
from sde_diffusion.samplers.runge_kutta import RK4, Midpoint
from sde_diffusion.samplers.sample import check, sample
from sde_diffusion.samplers.singlestep import RES2S, RES3S, DPMSolver2S, DPMSolver3S, DPMSolverPP2S
from sde_diffusion.samplers.solver import Model, Samples, Solver, State
from sde_diffusion.samplers.stochastic import (
    SEEDS3,
    SASolver,
    SDEDPMSolverPP2M,
    SDEDPMSolverPP2S,
    SDEDPMSolverPP3M,
)
from sde_diffusion.samplers.stochastic_heun import GottaGoFast, StochasticHeun
from sde_diffusion.samplers.unipc import UniPC
from sde_diffusion.selection import build

SOLVERS: dict[str, type[Solver]] = {
    "euler": Euler,
    "euler_maruyama": EulerMaruyama,
    "reverse_diffusion": ReverseDiffusion,
    "ancestral": Ancestral,
    "ddim": DDIM,
    "heun": Heun,
    "edm": EDMSampler,
    "midpoint": Midpoint,
    "rk4": RK4,
    "dpm_2s": DPMSolver2S,
    "dpm_3s": DPMSolver3S,
    "dpm_fast": DPMSolverFast,
    "dpmpp_2s": DPMSolverPP2S,
    "dpmpp_2m": DPMSolverPP2M,
    "dpmpp_3m": DPMSolverPP3M,
    "deis": DEIS,
    "ipndm": IPNDM,
    "unipc": UniPC,
    "res_2s": RES2S,
    "res_3s": RES3S,
    "stochastic_heun": StochasticHeun,
    "sde_dpmpp_2s": SDEDPMSolverPP2S,
    "sde_dpmpp_2m": SDEDPMSolverPP2M,
    "sde_dpmpp_3m": SDEDPMSolverPP3M,
    "seeds_3": SEEDS3,
    "sa_solver": SASolver,
    "gotta_go_fast": GottaGoFast,
    "dpm_adaptive": AdaptiveDPMSolver,
    "ode": BlackBox,
}

CORRECTORS: dict[str, type[Solver]] = {
    "langevin": Langevin,
    "annealed_langevin": AnnealedLangevin,
    "ula": ULA,
}


def named(name: str, **fields: Any) -> Solver:
    """SOLVERS[name](**fields); ValueError lists the choices for an unknown name or field."""
    return build("solver", name, SOLVERS, fields)


__all__ = [
    "CORRECTORS",
    "DDIM",
    "DEIS",
    "IPNDM",
    "MALA",
    "RES2S",
    "RES3S",
    "RK4",
    "SEEDS3",
    "SOLVERS",
    "ULA",
    "AdaptiveDPMSolver",
    "Ancestral",
    "AnnealedLangevin",
    "BlackBox",
    "DPMSolver2S",
    "DPMSolver3S",
    "DPMSolverFast",
    "DPMSolverPP2M",
    "DPMSolverPP2S",
    "DPMSolverPP3M",
    "EDMSampler",
    "Euler",
    "EulerMaruyama",
    "Fitted",
    "FittedGrid",
    "GottaGoFast",
    "Heun",
    "Langevin",
    "Midpoint",
    "Model",
    "ParaDiGMS",
    "PredictorCorrector",
    "Pushforward",
    "ReverseDiffusion",
    "SASolver",
    "SDEDPMSolverPP2M",
    "SDEDPMSolverPP2S",
    "SDEDPMSolverPP3M",
    "Samples",
    "Solver",
    "State",
    "StochasticHeun",
    "UniPC",
    "check",
    "named",
    "sample",
]
