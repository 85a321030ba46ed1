"""Distributions whose score is known exactly at every t, each of which gives an exact Model."""

from sde_diffusion.analytic.empirical import Empirical
from sde_diffusion.analytic.exact import Exact
from sde_diffusion.analytic.gaussian import Gaussian
from sde_diffusion.analytic.gaussian_mixture import GaussianMixture
from sde_diffusion.analytic.labelled import Labelled
from sde_diffusion.analytic.mixture import Mixture
from sde_diffusion.analytic.posterior import on_grid, posterior
from sde_diffusion.analytic.uniform import Uniform

__all__ = [
    "Empirical",
    "Exact",
    "Gaussian",
    "GaussianMixture",
    "Labelled",
    "Mixture",
    "Uniform",
    "on_grid",
    "posterior",
]
