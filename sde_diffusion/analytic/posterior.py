"""Exact posteriors: of Gaussians and mixtures given y = A x_0 + noise; densities on a grid.

    p(x_0 | y) = p(x_0) N(y; A x_0, std^2 I) / p(y)

For a Gaussian N(m, C), with K = A C A^T + std^2 I and the gain G = C A^T K^-1,

    x_0 | y ~ N(m + G (y - A m), (I - G A) C),     p(y) = N(y; A m, K)                        (1)

A mixture's posterior is the mixture of the components' posteriors, each with its weight times its
p(y).
"""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.analytic.gaussian import Gaussian
from sde_diffusion.analytic.mixture import Mixture
from sde_diffusion.analytic.uniform import Uniform
from sde_diffusion.sdes import Array

Prior = TypeVar("Prior", Gaussian, Mixture)

# Cells of a grid that hold less than this share of the largest one's mass are left out.
NEGLIGIBLE = 1e-7


def posterior(prior: Prior, matrix: Array, y: Array, std: Array | float) -> Prior:
    """p(x_0 | y) for y = matrix x_0 + std z, exactly, by (1): a Gaussian or a mixture of them.

    prior is a Gaussian, or a mixture of Gaussians; matrix is [M, D], y has M numbers, and std is a
    number, 0 for a measurement without noise. Rows of zeros say nothing and may stay. Like every
    distribution of `analytic`, the result has exact samples and an exact Model.

    Raises ValueError where the shapes do not fit, and TypeError for another prior.
    """
    matrix, y = jnp.asarray(matrix), jnp.ravel(jnp.asarray(y))
    components = prior.components if isinstance(prior, Mixture) else prior
    if not isinstance(components, Gaussian):
        raise TypeError(
            f"posterior needs a Gaussian or a mixture of Gaussians, got {type(prior).__name__} of "
            f"{type(components).__name__}"
        )
    if matrix.shape != (y.size, *prior.event):
        raise ValueError(
            f"matrix must be [{y.size}, {prior.event[0]}] for y of {y.size} and samples of "
            f"{prior.event[0]} numbers, got {matrix.shape}"
        )
    if not isinstance(prior, Mixture):
        return _of_gaussian(prior, matrix, y, std)[0]
    made, evidence = jax.vmap(lambda p: _of_gaussian(p, matrix, y, std))(components)
    return Mixture(made, jax.nn.softmax(jnp.log(prior.weights) + evidence))


def _of_gaussian(
    prior: Gaussian, matrix: Array, y: Array, std: Array | float
) -> tuple[Gaussian, Array]:
    """The posterior (1) and log p(y), where K's directions without variance are left out."""
    covariance, precise = prior.covariance, "highest"
    across = jnp.matmul(covariance, matrix.T, precision=precise)
    values, basis = jnp.linalg.eigh(
        jnp.matmul(matrix, across, precision=precise) + std**2 * jnp.eye(len(y))
    )
    varies = values > len(y) * jnp.finfo(values.dtype).eps * values[-1]
    inverse = jnp.where(varies, 1.0 / jnp.where(varies, values, 1.0), 0.0)
    gain = jnp.matmul(jnp.matmul(across, basis, precision=precise) * inverse, basis.T)
    residual = y - matrix @ prior.mean
    # Joseph's form of (I - G A) C, which stays positive in float32.
    kept = jnp.eye(len(covariance)) - jnp.matmul(gain, matrix, precision=precise)
    left = jnp.matmul(kept @ covariance, kept.T, precision=precise) + std**2 * gain @ gain.T
    log_volume = jnp.where(varies, jnp.log(2.0 * math.pi * jnp.where(varies, values, 1.0)), 0.0)
    evidence = -0.5 * jnp.sum((basis.T @ residual) ** 2 * inverse + log_volume)
    return Gaussian.of(prior.mean + gain @ residual, left), evidence


def on_grid(
    log_density: Callable[[Array], Array], low: float, high: float, num: int = 200
) -> Mixture:
    """A density on the square [low, high]^2 as a mixture of uniforms on num x num cells.

    log_density maps points [N, 2] to the log density [N], up to a constant: log p(x_0) plus
    log p(y | x_0) of any measurement, for example. Each cell has the density of its middle; cells
    of negligible mass are left out. `sample` is fast; the exact Model has a component for each
    cell.

    Raises ValueError where the density is not finite anywhere, or not negligible at the edge.
    """
    edges = np.linspace(low, high, num + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    points = np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1).reshape(-1, 2)
    log_mass = np.asarray(log_density(jnp.asarray(points, jnp.float32)), np.float64)
    mass = np.exp(log_mass - np.nanmax(log_mass))
    if not np.all(np.isfinite(mass)):
        raise ValueError(f"log_density must not be nan or infinite on [{low:g}, {high:g}]^2")
    square = mass.reshape(num, num)
    edge = max(square[[0, -1]].max(), square[:, [0, -1]].max())
    if edge > 1e-3:
        raise ValueError(
            f"the density at the edge of [{low:g}, {high:g}]^2 is {edge:.1e} of its largest value: "
            "use a larger square"
        )
    kept, half = mass > NEGLIGIBLE, (high - low) / num / 2
    corners = (jnp.asarray(points[kept] + side * half, jnp.float32) for side in (-1, 1))
    return Mixture(Uniform(*corners), jnp.asarray(mass[kept] / mass[kept].sum(), jnp.float32))
