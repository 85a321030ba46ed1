"""A mixture of isotropic Gaussians, whose score is known at every t."""

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
class GaussianMixture:
    """x_0 ~ sum_k weights_k N(means_k, std^2 I): means [K, D], weights [K], std [] or [K]."""

    means: Array
    std: Array
    weights: Array

    @classmethod
    def of(cls, means: Array, std: Array | float, weights: Array | None = None) -> GaussianMixture:
        means = jnp.asarray(means)
        if weights is None:
            weights = jnp.full(len(means), 1.0 / len(means))
        return cls(means, jnp.broadcast_to(jnp.asarray(std), (len(means),)), jnp.asarray(weights))

    @property
    def event(self) -> tuple[int, ...]:
        return self.means.shape[1:]

    def sample(self, key: Array, num: int) -> Array:
        """Exact samples x_0, [num, D]."""
        key_k, key_z = jax.random.split(key)
        k = jax.random.choice(key_k, len(self.means), (num,), p=self.weights)
        return self.means[k] + self.std[k, None] * jax.random.normal(key_z, (num, *self.event))

    def _components(self, sde: SDE, x: Array, t: Time) -> tuple[Array, Array, Array]:
        """Log joint density of (component, x) [B, K], distances [B, K, D], variances [B, K]."""
        t = jnp.broadcast_to(jnp.asarray(t), x.shape[:1])
        alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        distance = x[:, None, :] - alpha[..., None] * self.means
        variance = (alpha * self.std) ** 2 + sigma**2
        dimension = x.shape[-1]
        log_density = (
            jnp.log(self.weights)
            - 0.5 * jnp.sum(distance**2, axis=-1) / variance
            - 0.5 * dimension * jnp.log(2.0 * math.pi * variance)
        )
        return log_density, distance, variance

    def log_prob(self, sde: SDE, x: Array, t: Time) -> Array:
        """log p_t(x) in nats, [B] for x [B, D]."""
        return jax.nn.logsumexp(self._components(sde, x, t)[0], axis=-1)

    def score(self, sde: SDE, x: Array, t: Time) -> Array:
        """grad log p_t(x), [B, D]."""
        log_density, distance, variance = self._components(sde, x, t)
        posterior = jax.nn.softmax(log_density, axis=-1) / variance
        return -jnp.einsum("bk,bkd->bd", posterior, distance)

    def denoise(self, sde: SDE, x: Array, t: Time) -> Array:
        """E[x_0 | x_t = x], [B, D]: the components' denoised samples by their posterior weight."""
        log_density, distance, variance = self._components(sde, x, t)
        alpha = expand(sde.alpha(jnp.broadcast_to(jnp.asarray(t), x.shape[:1])), x)
        posterior = jax.nn.softmax(log_density, axis=-1)
        shrunk = posterior * self.std**2 / variance
        return posterior @ self.means + alpha * jnp.einsum("bk,bkd->bd", shrunk, distance)

    def model(self, sde: SDE) -> Partial:
        """The exact model(x, t) -> Prediction."""
        return exact_model(self, sde)
