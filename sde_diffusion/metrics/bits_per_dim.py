"""Bits per dimension of data under a model, with how sure the figure is."""

from typing import Any

import jax
import numpy as np

from sde_diffusion import density, samplers
from sde_diffusion.model import Model
from sde_diffusion.sdes import Array


def bits_per_dim(
    key: Array,
    model: Model,
    x: Array,
    *,
    grid: Array,
    levels: int,
    scale: float,
    cond: Any = None,
) -> tuple[float, float]:
    """(mean bits/dim of x [B, *event], standard error of this mean) by the probability flow.

    RK4 along the grid, and Hutchinson's estimate of the divergence with one Rademacher probe. The
    standard error is nan where B is 1.

    Args:
        key: of the probes.
        model: its range is that of x.
        x: dequantized data in the model's range.
        grid: decreasing times, as for `sample`.
        levels, scale: see `density.bits_per_dim`.
        cond: the condition of each row of x.
    """
    made = density.log_likelihood(
        key,
        model,
        x,
        solver=samplers.RK4(),
        grid=grid,
        divergence=density.Hutchinson(),
        cond=cond,
    )
    dimension = int(np.prod(x.shape[1:]))
    bits = density.bits_per_dim(made.log_prob, dimension, levels=levels, scale=scale)
    return mean_and_error(np.asarray(jax.device_get(bits), np.float64))


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean of values [B] and its standard error, nan where B is 1."""
    if len(values) < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
