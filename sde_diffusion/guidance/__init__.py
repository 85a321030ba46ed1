"""Guidance: functions from models to models, and the particles that make them exact.

A guided model is a Model like any other, for every solver and for further guidance.
"""

from sde_diffusion.guidance.classifier import classifier_guidance
from sde_diffusion.guidance.classifier_free import autoguidance, cfg_plus_plus, classifier_free
from sde_diffusion.guidance.composition import compose, power, product
from sde_diffusion.guidance.feynman_kac import FeynmanKac
from sde_diffusion.guidance.interval import interval
from sde_diffusion.guidance.negative import away_from
from sde_diffusion.guidance.rules import Linear, Projected, Rescaled, Rule
from sde_diffusion.guidance.thresholding import dynamic_threshold, static_threshold

__all__ = [
    "FeynmanKac",
    "Linear",
    "Projected",
    "Rescaled",
    "Rule",
    "autoguidance",
    "away_from",
    "cfg_plus_plus",
    "classifier_free",
    "classifier_guidance",
    "compose",
    "dynamic_threshold",
    "interval",
    "power",
    "product",
    "static_threshold",
]
