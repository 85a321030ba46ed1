"""What a step of training minimizes: objectives, losses, their weightings and times."""

from sde_diffusion.objectives import time_density, weighting
from sde_diffusion.objectives.denoising import (
    REDUCTIONS,
    ddpm_loss,
    denoising_loss,
    denoising_objective,
    half_sum,
    mean,
    smld_loss,
)
from sde_diffusion.objectives.dropping import drop_conditions
from sde_diffusion.objectives.image_conditions import (
    IMAGE_CONDITIONS,
    ImageCondition,
    gray,
    hidden,
    low_resolution,
)
from sde_diffusion.objectives.objective import Metrics, Objective, of_loss
from sde_diffusion.objectives.weighting import WEIGHTINGS, Weighting

__all__ = [
    "IMAGE_CONDITIONS",
    "REDUCTIONS",
    "WEIGHTINGS",
    "ImageCondition",
    "Metrics",
    "Objective",
    "Weighting",
    "ddpm_loss",
    "denoising_loss",
    "denoising_objective",
    "drop_conditions",
    "gray",
    "half_sum",
    "hidden",
    "low_resolution",
    "mean",
    "of_loss",
    "smld_loss",
    "time_density",
    "weighting",
]
