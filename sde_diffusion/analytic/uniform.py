"""A uniform distribution on a box, whose score is known at every t."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from sde_diffusion.analytic.exact import Exact
from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import SDE, Array, Time, expand

# Beyond 9 standard deviations the normal density is below float64's rounding. Within, 40 nodes
# integrate exp(-x^2 / 2) on any interval to that rounding.
REACH = 9.0
NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)
NODES, LOG_WEIGHTS = (NODES + 1.0) / 2.0, np.log(WEIGHTS / 2.0)


@pytree
class Uniform(Exact):
    """x_0 ~ U(low, high) on a box; where low = high the box is flat, a segment or a point.

    With Phi the standard normal distribution function, on each axis by itself,

        p_t(x) = [Phi((x - alpha low) / sigma) - Phi((x - alpha high) / sigma)]
                 / (alpha (high - low)),

    and given x_t = x the noise is standard normal, truncated to
    [(x - alpha high) / sigma, (x - alpha low) / sigma]. At sigma = 0, as at t = 0 of EDM,
    `log_prob` is the log density of the data: half the density on the edge, and below -1e35 outside
    the box.
    """

    low: Array
    high: Array

    @classmethod
    def of(cls, low: ArrayLike, high: ArrayLike) -> Uniform:
        """From corners [D], or a scalar for one of them; ValueError unless low <= high.

        `Uniform.of([-1.0, 0.0], [1.0, 0.0])` is a segment in the plane.
        """
        low, high = (np.asarray(corner, float) for corner in (low, high))
        if np.broadcast_shapes(low.shape, high.shape) == () or not np.all(low <= high):
            raise ValueError(f"low and high must be [D] with low <= high, got {low} and {high}")
        return cls(*(jnp.asarray(corner) for corner in np.broadcast_arrays(low, high)))

    @property
    def event(self) -> tuple[int, ...]:
        return self.low.shape

    def sample(self, key: Array, num: int) -> Array:
        u = jax.random.uniform(key, (num, *self.event), self.low.dtype)
        return self.low + (self.high - self.low) * u

    def log_prob(self, sde: SDE, x: Array, t: Time) -> Array:
        noise, sigma = self._noise(sde, x, t), expand(sde.sigma(t), x)
        box = expand(sde.alpha(t), x) * (self.high - self.low)
        flat = box / sigma == 0.0
        scale = jnp.where(flat, 1.0 / sigma, noise.width / jnp.where(flat, 1.0, box))
        return jnp.sum(noise.log_mean_density + jnp.log(scale), axis=-1)

    def score(self, sde: SDE, x: Array, t: Time) -> Array:
        """-E[eps | x_t = x] / sigma, [B, D]."""
        return -self._noise(sde, x, t).mean / expand(sde.sigma(t), x)

    def denoise(self, sde: SDE, x: Array, t: Time) -> Array:
        # (x - sigma eps) / alpha would lose its digits where alpha or the box is small.
        return self.high - (self.high - self.low) * self._noise(sde, x, t).share

    def noise_variance(self, sde: SDE, x: Array, t: Time) -> Array:
        """The mean over the axes of the variance of the truncated normal, [B]."""
        return jnp.mean(self._noise(sde, x, t).variance, axis=-1)

    def _noise(self, sde: SDE, x: Array, t: Time) -> _TruncatedNormal:
        """The noise given x_t = x, on each axis by itself, [B, D]."""
        alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
        low, high = (x - alpha * corner for corner in (self.high, self.low))
        # On the edge at sigma = 0 both are 0 / 0; 0 is their limit for sigma to 0.
        low, high = (jnp.where((d == 0.0) & (sigma == 0.0), 0.0, d / sigma) for d in (low, high))
        return _truncated_normal(low, high, alpha * (self.high - self.low) / sigma)


class _TruncatedNormal(NamedTuple):
    """A standard normal on an interval, by quadrature over the part of it that matters."""

    log_mean_density: Array  # log of the mean over that part of exp(-eps^2 / 2) / sqrt(2 pi)
    width: Array  # of that part
    mean: Array
    variance: Array
    share: Array  # of the interval that lies below the mean, in [0, 1]


def _truncated_normal(low: Array, high: Array, width: Array) -> _TruncatedNormal:
    """The standard normal on [low, high]. The width is an argument: high - low may have lost it.

    Differences of normal distribution functions, or of their logarithms, cancel if the interval is
    short or far from zero. A Gauss-Legendre rule only adds positive numbers. It is exact to
    rounding once the interval is cut to the part with density: from its end nearest to zero, c, to
    where exp(-eps^2 / 2) has fallen by exp(-REACH^2 / 2).
    """
    flip = low + high < 0.0  # the end nearest to zero is then the low one
    near = jnp.where(flip, -high, low)
    start = jnp.clip(near, -REACH, 1e18)  # the bound keeps sigma = 0 finite
    c = jnp.maximum(start, 0.0)
    reach = REACH**2 / (jnp.sqrt(c**2 + REACH**2) + c) + (c - start)
    part = jnp.minimum(width, reach)

    u, log_weights = jnp.asarray(NODES, low.dtype), jnp.asarray(LOG_WEIGHTS, low.dtype)
    ahead = part[..., None] * u
    log_density = log_weights - 0.5 * ahead * (ahead + 2.0 * start[..., None])
    share = jax.nn.softmax(log_density, axis=-1)
    u_mean = jnp.sum(share * u, axis=-1)
    variance = part**2 * jnp.sum(share * (u - u_mean[..., None]) ** 2, axis=-1)

    log_mean = jax.nn.logsumexp(log_density, axis=-1) - 0.5 * (start**2 + math.log(2.0 * math.pi))
    mean = start + part * u_mean
    point = width == 0.0
    below = jnp.where(point, u_mean, (start - near + part * u_mean) / jnp.where(point, 1.0, width))
    return _TruncatedNormal(
        log_mean,
        part,
        jnp.where(flip, -mean, mean),
        variance,
        jnp.where(flip, 1.0 - below, below),
    )
