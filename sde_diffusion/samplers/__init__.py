"""Samplers: sample(), the contract of a solver, and one file for each family of solvers."""

from typing import Any

from sde_diffusion.samplers.ancestral import Ancestral
from sde_diffusion.samplers.black_box import BlackBox
from sde_diffusion.samplers.ddim import DDIM
from sde_diffusion.samplers.deis import DEIS
from sde_diffusion.samplers.dpm_solver import DPMSolver2S, DPMSolver3S
from sde_diffusion.samplers.dpm_solver_adaptive import AdaptiveDPMSolver
from sde_diffusion.samplers.dpm_solver_fast import DPMSolverFast
from sde_diffusion.samplers.dpm_solver_pp import DPMSolverPP2M, DPMSolverPP2S, DPMSolverPP3M
from sde_diffusion.samplers.edm import EDMSampler
from sde_diffusion.samplers.euler import Euler, EulerMaruyama
from sde_diffusion.samplers.fitted import Fitted, FittedGrid
from sde_diffusion.samplers.flow_map import FlowMap
from sde_diffusion.samplers.gotta_go_fast import GottaGoFast
from sde_diffusion.samplers.heun import Heun
from sde_diffusion.samplers.hook import Hooked
from sde_diffusion.samplers.ipndm import IPNDM
from sde_diffusion.samplers.langevin import MALA, ULA, AnnealedLangevin, Langevin
from sde_diffusion.samplers.paradigms import ParaDiGMS
from sde_diffusion.samplers.particles import Particles, ParticleSolver
from sde_diffusion.samplers.plms import PLMS
from sde_diffusion.samplers.predictor_corrector import PredictorCorrector
from sde_diffusion.samplers.res import RES2S, RES3S
from sde_diffusion.samplers.reverse_diffusion import ReverseDiffusion
from sde_diffusion.samplers.runge_kutta import RK4, Midpoint
from sde_diffusion.samplers.sa_solver import SASolver
from sde_diffusion.samplers.sample import check, sample
from sde_diffusion.samplers.sde_dpm_solver_pp import (
    SDEDPMSolverPP2M,
    SDEDPMSolverPP2S,
    SDEDPMSolverPP3M,
)
from sde_diffusion.samplers.seeds import SEEDS3
from sde_diffusion.samplers.solver import Counted, Samples, Solver, State
from sde_diffusion.samplers.stochastic_heun import StochasticHeun
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
    "plms": PLMS,
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

# Solvers of models that have a flow map.
MAPS: dict[str, type[Solver]] = {"flow_map": FlowMap}

CORRECTORS: dict[str, type[Solver]] = {
    "langevin": Langevin,
    "annealed_langevin": AnnealedLangevin,
    "ula": ULA,
}


def named(name: str, **fields: Any) -> Solver:
    """The solver of that name in SOLVERS or MAPS; ValueError lists the names, or its fields."""
    return build("solver", name, SOLVERS | MAPS, fields)


__all__ = [
    "CORRECTORS",
    "DDIM",
    "DEIS",
    "IPNDM",
    "MALA",
    "MAPS",
    "PLMS",
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
    "Counted",
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
    "FlowMap",
    "GottaGoFast",
    "Heun",
    "Hooked",
    "Langevin",
    "Midpoint",
    "ParaDiGMS",
    "ParticleSolver",
    "Particles",
    "PredictorCorrector",
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
