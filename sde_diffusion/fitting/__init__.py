"""Fitting solvers to a model: fit(), and the files that fitted solvers are kept in."""

from sde_diffusion.fitting.record import load, save
from sde_diffusion.fitting.search import Fit, fit

__all__ = ["Fit", "fit", "load", "save"]
