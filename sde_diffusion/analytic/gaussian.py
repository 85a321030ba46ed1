"""A Gaussian of any covariance, whose score is known at every t."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from sde_diffusion.analytic.exact import Exact
from sde_diffusion.prediction import Mapped
from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import SDE, Array, Time, expand


@pytree
class Gaussian(Exact):
    """x_0 ~ N(mean [D], basis diag(variances) basis^T), with an orthogonal basis [D, D].

    Noise keeps the basis: x_t ~ N(alpha mean, basis diag(alpha^2 variances + sigma^2) basis^T).
    The variances are [D], or [1] where all are equal; without a basis it is the identity.
    """

    mean: Array
    variances: Array
    basis: Array | None = None

    @classmethod
    def of(cls, mean: Array, covariance: Array | float) -> Gaussian:
        """From a covariance: a scalar, a diagonal [D] or a matrix [D, D].

        `Gaussian.of(jnp.zeros(2), jnp.array([[0.5, 0.2], [0.2, 0.3]]))` is correlated.
        """
        mean, covariance = jnp.asarray(mean), jnp.asarray(covariance)
        if covariance.ndim < 2:
            return cls(mean, jnp.atleast_1d(covariance))
        variances, basis = jnp.linalg.eigh(covariance)
        return cls(mean, jnp.maximum(variances, 0.0), basis)  # rounding turns 0 into -1e-8

    @property
    def event(self) -> tuple[int, ...]:
        return self.mean.shape

    @property
    def covariance(self) -> Array:
        basis = jnp.eye(len(self.mean)) if self.basis is None else self.basis
        return (basis * self.variances) @ basis.T

    def sample(self, key: Array, num: int) -> Array:
        z = jax.random.normal(key, (num, *self.event), self.mean.dtype)
        return self.mean + self._out_of_basis(z * jnp.sqrt(self.variances))

    def log_prob(self, sde: SDE, x: Array, t: Time) -> Array:
        distance, variances = self._whiten(sde, x, t)
        log_volume = jnp.mean(jnp.log(variances), axis=-1) + math.log(2.0 * math.pi)
        return -0.5 * (jnp.sum(distance**2 / variances, axis=-1) + len(self.mean) * log_volume)

    def score(self, sde: SDE, x: Array, t: Time) -> Array:
        distance, variances = self._whiten(sde, x, t)
        return -self._out_of_basis(distance / variances)

    def denoise(self, sde: SDE, x: Array, t: Time) -> Array:
        """mean + alpha C (alpha^2 C + sigma^2 I)^-1 (x - alpha mean), C the covariance, [B, D]."""
        alpha = expand(sde.alpha(t), x)
        distance, variances = self._whiten(sde, x, t)
        return self.mean + self._out_of_basis(alpha * self.variances / variances * distance)

    def flow_map(self, sde: SDE, x: Array, t: Time, s: Time) -> Mapped:
        """alpha_s mean + sqrt(V_s / V_t) (x - alpha_t mean), in the basis, without error.

        V_t = alpha_t^2 variances + sigma_t^2: the flow of a Gaussian is linear and keeps the number
        of standard deviations from the mean.
        """
        distance, variances = self._whiten(sde, x, t)
        _, later = self._whiten(sde, x, s)
        mapped = expand(sde.alpha(jnp.asarray(s)), x) * self.mean + self._out_of_basis(
            jnp.sqrt(later / variances) * distance
        )
        return Mapped(mapped, 1, jnp.zeros(x.shape[:1], x.dtype))

    def noise_variance(self, sde: SDE, x: Array, t: Time) -> Array:
        """The mean over the basis of alpha^2 v / (alpha^2 v + sigma^2), v the variances, [B]."""
        return jnp.broadcast_to(self.loss(sde, t), x.shape[:1])

    def loss(self, sde: SDE, t: Time, key: Array | None = None, num: int = 4096) -> Array:
        """The mean over the basis of alpha^2 v / (alpha^2 v + sigma^2), v the variances."""
        alpha, sigma = sde.alpha(jnp.asarray(t)), sde.sigma(jnp.asarray(t))
        signal = alpha[..., None] ** 2 * self.variances
        return jnp.mean(signal / (signal + sigma[..., None] ** 2), axis=-1)

    def _whiten(self, sde: SDE, x: Array, t: Time) -> tuple[Array, Array]:
        """The distance to the mean in the basis, [B, D], and the variances there at time t."""
        alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
        distance = x - alpha * self.mean
        if self.basis is not None:
            distance = jnp.matmul(distance, self.basis, precision="highest")
        return distance, alpha**2 * self.variances + sigma**2

    def _out_of_basis(self, x: Array) -> Array:
        if self.basis is None:
            return x
        # The default precision of accelerators has three digits.
        return jnp.matmul(x, self.basis.T, precision="highest")
