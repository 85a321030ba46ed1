"""Inverse problems: samples of p(x_0 | y) for a measurement y = A(x_0) + noise.

An `Operator` is A, a `Measurement` is y with its noise, passed as the condition. Methods are
functions from models to models, or solvers that wrap a solver.
"""

from sde_diffusion.inverse.daps import DAPS
from sde_diffusion.inverse.ddrm import DDRM
from sde_diffusion.inverse.diffpir import DiffPIR
from sde_diffusion.inverse.dps import DPS
from sde_diffusion.inverse.edit import sdedit
from sde_diffusion.inverse.measurement import Measurement, measure
from sde_diffusion.inverse.mmps import mmps
from sde_diffusion.inverse.nonlinear import Clipping, PhaseRetrieval, Quantization
from sde_diffusion.inverse.operator import Composed, Linear, Nonlinear, Operator
from sde_diffusion.inverse.operators import (
    Blur,
    CompressedSensing,
    Downsampling,
    Grayscale,
    Inpainting,
    Radon,
    gaussian_kernel,
    motion_kernel,
)
from sde_diffusion.inverse.pigdm import pigdm
from sde_diffusion.inverse.replacement import RePaint, Replacement
from sde_diffusion.inverse.sda import sda
from sde_diffusion.inverse.tmpd import tmpd
from sde_diffusion.inverse.twisted import TDS, FKSteering, likelihood

__all__ = [
    "DAPS",
    "DDRM",
    "DPS",
    "TDS",
    "Blur",
    "Clipping",
    "Composed",
    "CompressedSensing",
    "DiffPIR",
    "Downsampling",
    "FKSteering",
    "Grayscale",
    "Inpainting",
    "Linear",
    "Measurement",
    "Nonlinear",
    "Operator",
    "PhaseRetrieval",
    "Quantization",
    "Radon",
    "RePaint",
    "Replacement",
    "gaussian_kernel",
    "likelihood",
    "measure",
    "mmps",
    "motion_kernel",
    "pigdm",
    "sda",
    "sdedit",
    "tmpd",
]
