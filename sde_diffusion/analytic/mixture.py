"""Mixtures of exact distributions, which are exact themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sde_diffusion.analytic.exact import Exact
from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import SDE, Array, Time, expand


@pytree
class Mixture(Exact):
    """x_0 ~ sum_k weights_k p_k: components of one kind, each field stacked to [K, ...].

    p_t is the mixture of the components' p_t with the same weights. Every expectation given x_t is
    the mean of the components' own by the posterior weights w_k = weights_k p_k,t(x) / p_t(x).
    """

    components: Exact
    weights: Array

    @classmethod
    def of(cls, components: Sequence[Exact], weights: Array | None = None) -> Mixture:
        """From components of one kind and event; equal weights unless given, [K], summing to one.

            checkers = Mixture.of([Uniform.of([0, 0], [1, 1]), Uniform.of([1, 1], [2, 2])])

        Raises ValueError where the components differ in kind or shape, or the weights do not fit.
        """
        shapes = {
            (jax.tree.structure(c), tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(c)))
            for c in components
        }
        if len(shapes) != 1:
            kinds = ", ".join(f"{type(c).__name__}{list(c.event)}" for c in components)
            raise ValueError(f"components must be of one kind and shape, got {kinds or 'none'}")
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *components)
        return cls(stacked, weights_of(weights, len(components)))

    @property
    def event(self) -> tuple[int, ...]:
        return self.components.event[1:]

    def sample(self, key: Array, num: int) -> Array:
        key_k, key_x = jax.random.split(key)
        k = jax.random.choice(key_k, len(self.weights), (num,), p=self.weights)
        drawn = jax.tree.map(lambda leaf: leaf[k], self.components)
        return jax.vmap(lambda p, key: p.sample(key, 1)[0])(drawn, jax.random.split(key_x, num))

    def log_prob(self, sde: SDE, x: Array, t: Time) -> Array:
        return jax.nn.logsumexp(self._log_joint(sde, x, t), axis=0)

    def score(self, sde: SDE, x: Array, t: Time) -> Array:
        """sum_k w_k score_k(x), [B, *event]."""
        return _mean(self._posterior(sde, x, t), self._each(lambda p: p.score(sde, x, t)))

    def denoise(self, sde: SDE, x: Array, t: Time) -> Array:
        """sum_k w_k denoise_k(x), [B, *event]."""
        return _mean(self._posterior(sde, x, t), self._each(lambda p: p.denoise(sde, x, t)))

    def noise_variance(self, sde: SDE, x: Array, t: Time) -> Array:
        """sum_k w_k [noise_variance_k + ||eps_k - sum_j w_j eps_j||^2 / D], [B]."""
        posterior = self._posterior(sde, x, t)
        within = self._each(lambda p: p.noise_variance(sde, x, t))
        score = self._each(lambda p: p.score(sde, x, t))
        eps = -expand(sde.sigma(jnp.asarray(t)), x) * score
        between = (eps - _mean(posterior, eps)) ** 2
        return _mean(posterior, within + jnp.mean(between, axis=tuple(range(2, eps.ndim))))

    def _each(self, function: Callable[[Exact], Array]) -> Array:
        """The function applied to each component, [K, B, ...]."""
        return jax.vmap(function)(self.components)

    def _log_joint(self, sde: SDE, x: Array, t: Time) -> Array:
        """Log joint density of (component, x), [K, B]."""
        return jnp.log(self.weights)[:, None] + self._each(lambda p: p.log_prob(sde, x, t))

    def _posterior(self, sde: SDE, x: Array, t: Time) -> Array:
        return jax.nn.softmax(self._log_joint(sde, x, t), axis=0)


def weights_of(weights: Array | None, num: int) -> Array:
    """The weights [num], equal by default; ValueError for another number of them."""
    if weights is None:
        return jnp.full(num, 1.0 / num)
    weights = jnp.asarray(weights)
    if weights.shape != (num,):
        raise ValueError(f"weights must be [{num}], one a component, got shape {weights.shape}")
    return weights


def _mean(weights: Array, values: Array) -> Array:
    """sum_k weights_k values_k, [B, ...] for weights [K, B] and values [K, B, ...]."""
    return jnp.einsum("kb,kb...->b...", weights, values, precision="highest")
