"""Where in time a loss is evaluated: numbers in (0, 1), and the times that they stand for.

A `draw(key, num)` gives the numbers u [B]; a `times(sde, u)` turns them into (t [B], ratio [B]).
The ratio multiplies the loss: it is 1 where the distribution of t is part of the objective, and
the density of the uniform distribution over that of t where t is sampled to reduce the variance.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sde_diffusion.sdes import SDE, Array

Draw = Callable[[Array, int], Array]
Times = Callable[[SDE, Array], tuple[Array, Array]]


def independent(key: Array, num: int) -> Array:
    """num independent uniform numbers in (0, 1)."""
    return _inside(jax.random.uniform(key, (num,)))


def stratified(key: Array, num: int) -> Array:
    """num evenly spaced numbers with one random shift. Kingma et al. 2021, app. I.1."""
    return _inside(jnp.mod(jax.random.uniform(key) + jnp.arange(num) / num, 1.0))


def _inside(u: Array) -> Array:
    # The normal quantile of 0 or 1 is infinite.
    tiny = jnp.finfo(u.dtype).eps
    return jnp.clip(u, tiny, 1.0 - tiny)


def uniform(sde: SDE, u: Array) -> tuple[Array, Array]:
    """t uniform between t_min and t_max. Song et al. 2021, eq. 7."""
    return sde.t_min + u * (sde.t_max - sde.t_min), jnp.ones_like(u)


def importance(sde: SDE, u: Array) -> tuple[Array, Array]:
    """p(t) in proportion to g^2 / sigma^2, with the ratio that leaves the objective as it is.

    g^2 / sigma^2 = -2 d lambda/dt, so this is lambda uniform between its ends. Song et al. 2021
    (maximum likelihood), sec. 5.
    """
    high, low = sde.log_snr(sde.t_min), sde.log_snr(sde.t_max)
    t = jnp.clip(sde.t_of_log_snr(high + u * (low - high)), sde.t_min, sde.t_max)
    density = 0.5 * (sde.diffusion(t) / sde.sigma(t)) ** 2 / (high - low)
    return t, 1.0 / (density * (sde.t_max - sde.t_min))


def log_normal(mean: float = -1.2, std: float = 1.2) -> Times:
    """log(sigma / alpha) ~ N(mean, std^2), within [t_min, t_max]. Karras et al. 2022, table 1."""

    def times(sde: SDE, u: Array) -> tuple[Array, Array]:
        t = sde.t_of_log_snr(-(mean + std * jax.scipy.special.ndtri(u)))
        return jnp.clip(t, sde.t_min, sde.t_max), jnp.ones_like(u)

    return times


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Times:
    """logit(t / t_max) ~ N(mean, std^2), within [t_min, t_max]. Esser et al. 2024, eq. 19."""

    def times(sde: SDE, u: Array) -> tuple[Array, Array]:
        t = sde.t_max * jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u))
        return jnp.clip(t, sde.t_min, sde.t_max), jnp.ones_like(u)

    return times


DRAWS: dict[str, Draw] = {"independent": independent, "stratified": stratified}

TIMES: dict[str, Callable[..., Times]] = {
    "uniform": lambda: uniform,
    "importance": lambda: importance,
    "log_normal": log_normal,
    "logit_normal": logit_normal,
}
