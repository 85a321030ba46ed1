"""The empirical distribution of a data set, whose score is known at every t."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sde_diffusion.analytic.exact import Exact
from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import SDE, Array, Time

# The most distances (float32) between one block of samples and all the data.
BLOCK = 2**24
# Up to FEW_DIMENSIONS, distances are sums of squared differences to every row. Above, they come
# from a matrix product, which is many times faster but loses digits, and are computed again for
# the NEAREST rows.
FEW_DIMENSIONS, NEAREST = 16, 32


@pytree
class Empirical(Exact):
    """x_0 is a row of data [N, *event], each with probability 1 / N.

    p_t is a mixture of N Gaussians of standard deviation sigma, and with the posterior weights
    w = softmax(-|x - alpha data|^2 / (2 sigma^2)) over all the data

        E[x_0 | x_t = x] = sum_i w_i data_i,    score = (alpha E[x_0 | x_t = x] - x) / sigma^2:

    This is the prediction of a network that has memorized its training data. Samples are processed
    in blocks, so beyond the data the memory is about 64 MiB for any number of samples and data.
    There is no density at sigma = 0.
    """

    data: Array

    @property
    def event(self) -> tuple[int, ...]:
        return self.data.shape[1:]

    def sample(self, key: Array, num: int) -> Array:
        """Rows of the data, drawn with replacement, [num, *event]."""
        return self.data[jax.random.randint(key, (num,), 0, len(self.data))]

    def log_prob(self, sde: SDE, x: Array, t: Time) -> Array:
        def one(given: _Given) -> Array:
            log_volume = 0.5 * given.x.size * jnp.log(2.0 * math.pi * given.sigma**2)
            return jax.nn.logsumexp(given.log_weights) - log_volume - math.log(len(self.data))

        return self._map(one, sde, x, t)

    def score(self, sde: SDE, x: Array, t: Time) -> Array:
        def one(given: _Given) -> Array:
            return -given.residual / given.sigma**2

        return self._map(one, sde, x, t).reshape(x.shape)

    def denoise(self, sde: SDE, x: Array, t: Time) -> Array:
        return self._map(lambda given: given.denoised, sde, x, t).reshape(x.shape)

    def noise_variance(self, sde: SDE, x: Array, t: Time) -> Array:
        """[sum_i w_i |x - alpha data_i|^2 - |x - alpha E[x_0 | x]|^2] / (sigma^2 D), [B].

        The absolute error is float32's rounding of 1 where the first term is about 1, as it is for
        x in the bulk of p_t.
        """

        def one(given: _Given) -> Array:
            total = jnp.sum(jax.nn.softmax(given.log_weights) * given.log_weights)
            variance = -2.0 * total - jnp.sum((given.residual / given.sigma) ** 2)
            return jnp.maximum(variance, 0.0) / given.x.size

        return self._map(one, sde, x, t)

    def _map(self, function: Callable[[_Given], Array], sde: SDE, x: Array, t: Time) -> Array:
        """The function applied to each sample alone, [B, ...], one block of samples at a time."""
        data, t = self.data.reshape(len(self.data), -1), jnp.broadcast_to(jnp.asarray(t), len(x))
        norms = jnp.sum(data**2, axis=-1)

        def one(inputs: tuple[Array, Array, Array]) -> Array:
            x, alpha, sigma = inputs
            log_weights = -0.5 * _squares(x, alpha, data, norms) / sigma**2
            return function(_Given(x, alpha, sigma, log_weights, data))

        block = min(len(x), max(1, BLOCK // len(data)))
        inputs = (x.reshape(len(x), -1), sde.alpha(t), sde.sigma(t))
        return jax.lax.map(one, inputs, batch_size=block)


@dataclasses.dataclass(frozen=True)
class _Given:
    """One sample x [D], the unnormalized logarithms [N] of its weights, and the data [N, D]."""

    x: Array
    alpha: Array
    sigma: Array
    log_weights: Array
    data: Array

    @property
    def denoised(self) -> Array:
        weights = jax.nn.softmax(self.log_weights)
        return jnp.matmul(weights, self.data, precision=jax.lax.Precision.HIGHEST)

    @property
    def residual(self) -> Array:
        return self.x - self.alpha * self.denoised


def _squares(x: Array, alpha: Array, data: Array, norms: Array) -> Array:
    """|x - alpha data_i|^2, [N], for x [D], data [N, D] and their squared norms [N].

    The form |x|^2 - 2 alpha x . data_i + alpha^2 |data_i|^2 has an error of about 1e-7 |x|^2, which
    exceeds sigma^2 for small sigma. There, however, all weight is on the few nearest rows, whose
    distances are computed again as sums of squared differences.
    """
    if x.size <= FEW_DIMENSIONS:
        return jnp.sum((x[:, None] - alpha * data.T) ** 2, axis=0)
    product = jnp.matmul(data, x, precision=jax.lax.Precision.HIGHEST)
    rough = jnp.sum(x**2) - 2.0 * alpha * product + alpha**2 * norms
    _, near = jax.lax.top_k(-rough, min(NEAREST, len(data)))
    return rough.at[near].set(jnp.sum((x - alpha * data[near]) ** 2, axis=-1))
