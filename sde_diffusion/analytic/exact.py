"""The interface of an exact distribution: what it knows at every t, and its exact Model."""

from __future__ import annotations

import abc

import jax
import jax.numpy as jnp

from sde_diffusion.flow_map import solved
from sde_diffusion.model import Model
from sde_diffusion.prediction import Mapped, Prediction
from sde_diffusion.sdes import SDE, Array, Time, expand

# The steps of a fine solution of the flow.
FINE = 128


class Exact(abc.ABC):
    """A distribution of x_0 whose noised versions p_t are known; every subclass is a `pytree`.

    Samples are [B, *event] and times [] or [B]. Methods may return nan where sigma = 0, as at t = 0
    of EDM.
    """

    @property
    @abc.abstractmethod
    def event(self) -> tuple[int, ...]:
        """The shape of one sample."""

    @abc.abstractmethod
    def sample(self, key: Array, num: int) -> Array:
        """Exact samples x_0, [num, *event]."""

    @abc.abstractmethod
    def log_prob(self, sde: SDE, x: Array, t: Time) -> Array:
        """log p_t(x) in nats, [B]."""

    @abc.abstractmethod
    def score(self, sde: SDE, x: Array, t: Time) -> Array:
        """grad log p_t(x), [B, *event]."""

    @abc.abstractmethod
    def denoise(self, sde: SDE, x: Array, t: Time) -> Array:
        """E[x_0 | x_t = x], [B, *event]."""

    @abc.abstractmethod
    def noise_variance(self, sde: SDE, x: Array, t: Time) -> Array:
        """E[||eps - E[eps | x_t]||^2 | x_t = x] / D, D the size of an event, [B] in [0, 1] or so.

        = (alpha / sigma)^2 tr Cov[x_0 | x_t = x] / D.
        """

    def loss(self, sde: SDE, t: Time, key: Array | None = None, num: int = 4096) -> Array:
        """E ||eps - E[eps | x_t]||^2 / D, the least denoising loss at t, [] or [B] like t.

        The mean of `noise_variance` over `num` exact samples of x_t, with the same noise at every
        t. The estimate is unbiased, and its variance is below that of the squared error, of which
        noise_variance is the conditional mean. The default key is fixed. A distribution with a
        closed form ignores key and num.
        """
        t = jnp.asarray(t)
        key_x, key_z = jax.random.split(jax.random.key(0) if key is None else key)
        x0 = self.sample(key_x, num)
        z = jax.random.normal(key_z, x0.shape, x0.dtype)

        def at(t: Array) -> Array:
            mean, std = sde.marginal_prob(x0, t)
            return jnp.mean(self.noise_variance(sde, mean + std * z, t))

        return jax.lax.map(at, t.ravel()).reshape(t.shape)

    def flow_map(self, sde: SDE, x: Array, t: Time, s: Time) -> Mapped:
        """Where the exact probability flow takes x from t to s, with an estimate of its error.

        It is a fine solution (`flow_map.solved`), unless the distribution has a closed form.
        """
        return solved(Model(sde, _predict, self), steps=FINE).flow_map(x, t, s)

    def model(self, sde: SDE) -> Model:
        """The exact model of the noised distribution, and its flow map; it takes no condition."""
        return Model(sde, _predict, self, _map)


def _predict(exact: Exact, sde: SDE, x: Array, t: Array, cond: None) -> Prediction:
    # From v = alpha eps - sigma x0 every view keeps its digits in float32. The score computed from
    # x0 loses them at small sigma, and x0 computed from the score at large sigma.
    sigma = expand(sde.sigma(t), x)
    eps = -sigma * exact.score(sde, x, t)
    v = expand(sde.alpha(t), x) * eps - sigma * exact.denoise(sde, x, t)
    return Prediction("v", v, x, t, sde)


def _map(exact: Exact, sde: SDE, x: Array, t: Array, s: Array, cond: None) -> Mapped:
    return exact.flow_map(sde, x, t, s)
