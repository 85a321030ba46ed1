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

__all__ = [
    "REDUCTIONS",
    "WEIGHTINGS",
    "ddpm_loss",
    "denoising_loss",
    "edm",
    "half_sum",
    "likelihood",
    "mean",
    "min_snr",
    "paper",
    "sigmoid",
    "smld_loss",
    "time_density",
]
