"""The loss of a denoiser that a config describes."""

from collections.abc import Callable
from functools import partial

from ml_collections import ConfigDict

from sde_diffusion import objectives, selection
from sde_diffusion.config.schema import fields
from sde_diffusion.objectives import time_density
from sde_diffusion.sdes import Array


def weighting(config: ConfigDict) -> objectives.Weighting:
    group = config.loss.weighting
    return objectives.WEIGHTINGS[group.name](**fields(group))


def loss(config: ConfigDict) -> Callable[..., Array]:
    """loss(key, model, x0, cond=...) -> [B]."""
    group = config.loss
    reduction = selection.choose("config.loss.reduction", group.reduction, objectives.REDUCTIONS)
    known: dict[str, Callable[..., Array]] = {
        "denoising": objectives.denoising_loss,
        "smld": objectives.smld_loss,
        "ddpm": objectives.ddpm_loss,
    }
    chosen = selection.choose("config.loss.name", group.name, known)
    if group.name != "denoising":  # in discrete time, over the scales that the labels count
        return partial(chosen, num_scales=config.parameterization.num_scales, reduction=reduction)
    return partial(
        chosen,
        weighting=weighting(config),
        times=time_density.TIMES[group.times.name](**fields(group.times)),
        draw=selection.choose("config.loss.draw", group.draw, time_density.DRAWS),
        reduction=reduction,
    )
