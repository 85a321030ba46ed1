"""Distributions whose score is known exactly at every t; they are models like any other."""

from sde_diffusion.analytic.gaussian import Gaussian
from sde_diffusion.analytic.mixture import GaussianMixture

__all__ = ["Gaussian", "GaussianMixture"]
