"""A Gaussian of any covariance, whose score is known at every t."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from sde_diffusion.analytic.model import exact_model
from sde_diffusion.sdes import SDE, Array, Time, expand


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gaussian:
    """x_0 ~ N(mean [D], basis diag(variances [D]) basis^T), with an orthogonal basis [D, D].

    Noise keeps the basis: x_t ~ N(alpha mean, basis diag(alpha^2 variances + sigma^2) basis^T).
    """

    mean: Array
    variances: Array
    basis: Array

    @classmethod
    def of(cls, mean: Array, covariance: Array) -> Gaussian:
        """From a covariance: a scalar, a diagonal [D] or a matrix [D, D]."""
        mean, covariance = jnp.asarray(mean), jnp.asarray(covariance)
        if covariance.ndim < 2:
            return cls(mean, jnp.broadcast_to(covariance, mean.shape), jnp.eye(len(mean)))
        variances, basis = jnp.linalg.eigh(covariance)
        return cls(mean, variances, basis)

    @property
    def event(self) -> tuple[int, ...]:
        return self.mean.shape

    @property
    def covariance(self) -> Array:
        return (self.basis * self.variances) @ self.basis.T

    def sample(self, key: Array, num: int) -> Array:
        """Exact samples x_0, [num, D]."""
        z = jax.random.normal(key, (num, *self.event))
        return self.mean + (z * jnp.sqrt(self.variances)) @ self.basis.T

    def _whiten(self, sde: SDE, x: Array, t: Time) -> tuple[Array, Array]:
        """The distance to the mean in the basis, [B, D], and the variances there at time t."""
        alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
        return (x - alpha * self.mean) @ self.basis, alpha**2 * self.variances + sigma**2

    def log_prob(self, sde: SDE, x: Array, t: Time) -> Array:
        """log p_t(x) in nats, [B] for x [B, D]."""
        distance, variances = self._whiten(sde, x, t)
        return -0.5 * jnp.sum(
            distance**2 / variances + jnp.log(variances) + math.log(2.0 * math.pi), axis=-1
        )

    def score(self, sde: SDE, x: Array, t: Time) -> Array:
        """grad log p_t(x), [B, D]."""
        distance, variances = self._whiten(sde, x, t)
        return -(distance / variances) @ self.basis.T

    def denoise(self, sde: SDE, x: Array, t: Time) -> Array:
        """E[x_0 | x_t = x], [B, D]."""
        alpha = expand(sde.alpha(t), x)
        distance, variances = self._whiten(sde, x, t)
        return self.mean + (alpha * self.variances / variances * distance) @ self.basis.T

    def model(self, sde: SDE) -> Partial:
        """The exact model(x, t) -> Prediction."""
        return exact_model(self, sde)

    def loss(self, sde: SDE, t: Time) -> Array:
        """E ||eps - E[eps | x_t]||^2 / D, the least denoising loss, [] or [B] like t.

        = mean over the basis of alpha^2 v / (alpha^2 v + sigma^2), v the variances.
        """
        alpha, sigma = sde.alpha(jnp.asarray(t)), sde.sigma(jnp.asarray(t))
        signal = alpha[..., None] ** 2 * self.variances
        return jnp.mean(signal / (signal + sigma[..., None] ** 2), axis=-1)
