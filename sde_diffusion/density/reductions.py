"""Sums and means that likelihoods and bounds share."""

import math

import jax.numpy as jnp

from sde_diffusion.sdes import Array


def sum_of_event(x: Array) -> Array:
    """The sum over a sample's dimensions, [B]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def mean_and_error(terms: Array) -> tuple[Array, Array]:
    """The mean of terms [B, n] and its standard error, each [B]; that of one term is unknown."""
    mean, num = jnp.mean(terms, axis=1), terms.shape[1]
    if num == 1:
        return mean, jnp.full_like(mean, jnp.nan)
    return mean, jnp.std(terms, axis=1, ddof=1) / math.sqrt(num)
