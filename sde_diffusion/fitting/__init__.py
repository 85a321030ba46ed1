"""Fitting a solver to a model with `fit`, and the files in which fitted solvers are stored."""

from sde_diffusion.fitting.record import load, save
from sde_diffusion.fitting.search import Fit, fit

__all__ = ["Fit", "fit", "load", "save"]
