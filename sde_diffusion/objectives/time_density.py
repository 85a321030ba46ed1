"""The times at which a loss is evaluated: densities over [t_min, t_max].

A `draw(key, num)` gives uniform numbers u [B] in (0, 1); `times(sde, u)` turns them into
(t [B], ratio [B]). The ratio multiplies the loss: it is 1 where the distribution of t is part of
the objective, and the density of the uniform distribution over that of t where t is sampled to
reduce the variance.

Every density takes `t_min` and `t_max`; the defaults are the ends of the SDE.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sde_diffusion.sdes import SDE, Array
from sde_diffusion.sdes.base import chain_length, ends

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


def uniform(t_min: float | None = None, t_max: float | None = None) -> Times:
    """t uniform between t_min and t_max. Song et al. 2021, eq. 7."""

    def times(sde: SDE, u: Array) -> tuple[Array, Array]:
        low, high = ends(sde, t_min, t_max)
        return low + u * (high - low), jnp.ones_like(u)

    return times


def importance(t_min: float | None = None, t_max: float | None = None) -> Times:
    """p(t) in proportion to g^2 / sigma^2, with the ratio that leaves the objective as it is.

    g^2 / sigma^2 = -2 d lambda/dt, so this is lambda uniform between its ends. Song et al. 2021
    (maximum likelihood), sec. 5.
    """

    def times(sde: SDE, u: Array) -> tuple[Array, Array]:
        early, late = ends(sde, t_min, t_max)
        high, low = sde.log_snr(early), sde.log_snr(late)
        t = jnp.clip(sde.t_of_log_snr(high + u * (low - high)), early, late)
        density = 0.5 * (sde.diffusion(t) / sde.sigma(t)) ** 2 / (high - low)
        return t, 1.0 / (density * (late - early))

    return times


def log_normal(
    mean: float = -1.2, std: float = 1.2, t_min: float | None = None, t_max: float | None = None
) -> Times:
    """log(sigma / alpha) ~ N(mean, std^2), within [t_min, t_max]. Karras et al. 2022, table 1."""

    def times(sde: SDE, u: Array) -> tuple[Array, Array]:
        t = sde.t_of_log_snr(-(mean + std * jax.scipy.special.ndtri(u)))
        return jnp.clip(t, *ends(sde, t_min, t_max)), jnp.ones_like(u)

    return times


def logit_normal(
    mean: float = 0.0, std: float = 1.0, t_min: float | None = None, t_max: float | None = None
) -> Times:
    """logit(t / T) ~ N(mean, std^2), T the SDE's t_max, within [t_min, t_max].

    Esser et al. 2024, eq. 19.
    """

    def times(sde: SDE, u: Array) -> tuple[Array, Array]:
        t = sde.t_max * jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u))
        return jnp.clip(t, *ends(sde, t_min, t_max)), jnp.ones_like(u)

    return times


def chain(
    num_scales: int | None = None, t_min: float | None = None, t_max: float | None = None
) -> Times:
    """One of the N = num_scales times of a chain, all equally likely. Ho et al. 2020, eq. 14.

    N is that of a `Tabulated` SDE if it is None, and 1,000 for every other SDE. Time i is at
    i / (N - 1) of the SDE's t_max; t_min and t_max leave out the times beyond them.
    """

    def times(sde: SDE, u: Array) -> tuple[Array, Array]:
        last = chain_length(sde, num_scales) - 1
        low, high = ends(sde, t_min, t_max)
        # A whole number that rounding moved across a time of the chain is still that time.
        first = jnp.ceil(low / sde.t_max * last * (1.0 - 1e-6))
        count = jnp.floor(high / sde.t_max * last * (1.0 + 1e-6)) - first + 1.0
        index = first + jnp.minimum(jnp.floor(u * count), count - 1.0)
        return index * (sde.t_max / last), jnp.ones_like(u)

    return times


DRAWS: dict[str, Draw] = {"independent": independent, "stratified": stratified}

TIMES: dict[str, Callable[..., Times]] = {
    "uniform": uniform,
    "importance": importance,
    "log_normal": log_normal,
    "logit_normal": logit_normal,
    "chain": chain,
}
