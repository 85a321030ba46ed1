"""What a step of training minimizes, and the densities from which training times are drawn."""

from sde_diffusion.objectives import time_density
from sde_diffusion.objectives.denoising import (
    REDUCTIONS,
    WEIGHTINGS,
    ddpm_loss,
    denoising_loss,
    edm,
    half_sum,
    likelihood,
    mean,
    min_snr,
    paper,
    sigmoid,
    smld_loss,
)
from sde_diffusion.objectives.objective import Metrics, Objective, of_loss

__all__ = [
    "REDUCTIONS",
    "WEIGHTINGS",
    "Metrics",
    "Objective",
    "ddpm_loss",
    "denoising_loss",
    "edm",
    "half_sum",
    "likelihood",
    "mean",
    "min_snr",
    "of_loss",
    "paper",
    "sigmoid",
    "smld_loss",
    "time_density",
]
