"""What a step of training minimizes: objectives, losses, their weightings and times."""

from sde_diffusion.objectives import time_density, weighting
from sde_diffusion.objectives.adversarial import (
    ADVERSARIES,
    Adversary,
    adversarial_distillation_objective,
    hinge,
    logarithmic,
)
from sde_diffusion.objectives.autoencoding import Weights as AutoencodingWeights
from sde_diffusion.objectives.autoencoding import autoencoding_objective, kl_divergence
from sde_diffusion.objectives.classification import (
    classification_loss,
    classification_objective,
)
from sde_diffusion.objectives.consistency import SCHEDULES, consistency_loss
from sde_diffusion.objectives.continuous import meanflow_loss, scm_loss
from sde_diffusion.objectives.contrastive import contrastive_loss
from sde_diffusion.objectives.denoising import (
    REDUCTIONS,
    ddpm_loss,
    denoising_loss,
    denoising_objective,
    half_sum,
    mean,
    smld_loss,
)
from sde_diffusion.objectives.distillation import FLOW_MAP_LOSSES, flow_map_objective
from sde_diffusion.objectives.distribution_matching import distribution_matching_objective
from sde_diffusion.objectives.dropping import drop_conditions
from sde_diffusion.objectives.guided import GUIDANCE, guided, told_weight
from sde_diffusion.objectives.image_conditions import (
    IMAGE_CONDITIONS,
    ImageCondition,
    gray,
    hidden,
    low_resolution,
)
from sde_diffusion.objectives.jumps import progressive_loss, shortcut_loss, trajectory_loss
from sde_diffusion.objectives.objective import Metrics, Objective, of_loss
from sde_diffusion.objectives.weighting import WEIGHTINGS, Weighting

__all__ = [
    "ADVERSARIES",
    "FLOW_MAP_LOSSES",
    "GUIDANCE",
    "IMAGE_CONDITIONS",
    "REDUCTIONS",
    "SCHEDULES",
    "WEIGHTINGS",
    "Adversary",
    "AutoencodingWeights",
    "ImageCondition",
    "Metrics",
    "Objective",
    "Weighting",
    "adversarial_distillation_objective",
    "autoencoding_objective",
    "classification_loss",
    "classification_objective",
    "consistency_loss",
    "contrastive_loss",
    "ddpm_loss",
    "denoising_loss",
    "denoising_objective",
    "distribution_matching_objective",
    "drop_conditions",
    "flow_map_objective",
    "gray",
    "guided",
    "half_sum",
    "hidden",
    "hinge",
    "kl_divergence",
    "logarithmic",
    "low_resolution",
    "mean",
    "meanflow_loss",
    "of_loss",
    "progressive_loss",
    "scm_loss",
    "shortcut_loss",
    "smld_loss",
    "time_density",
    "told_weight",
    "trajectory_loss",
    "weighting",
]
