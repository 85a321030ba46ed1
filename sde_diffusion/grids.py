"""Time grids: n + 1 decreasing times in (0, t_max] for n steps, from t_max (noise) to t_min (data).

Every grid is an array, so it can be traced, differentiated, or written by hand. Those of a
discrete chain, `leading` and `trailing`, stop short of one end. The step to t = 0 with which other
grids end, such as EDM's, is that of `denoise_last`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.sdes import SDE, Array
from sde_diffusion.sdes.base import require
from sde_diffusion.selection import choose


def _unit(steps: int) -> Array:
    if steps < 1:
        raise ValueError(f"a grid needs at least 1 step, got {steps}")
    return jnp.linspace(0.0, 1.0, steps + 1)


def _between(sde: SDE, u: Array, inner: Array) -> Array:
    # The ends are t_max and t_min themselves, not what rounding makes of them.
    return jnp.where(u == 0.0, sde.t_max, jnp.where(u == 1.0, sde.t_min, inner))


def _log_snr_ends(sde: SDE) -> tuple[Array, Array]:
    """lambda at t_max and t_min; ValueError where one of them is known to be infinite."""
    ends = []
    for name, t, example in (("t_max", sde.t_max, 0.999), ("t_min", sde.t_min, 0.001)):
        ends.append(end := sde.log_snr(t))
        if not isinstance(end, jax.core.Tracer) and not jnp.isfinite(end):
            raise ValueError(
                f"{type(sde).__name__} has no finite log-SNR at {name}={t:g}: use another grid, or "
                f"another {name} such as {example}"
            )
    return ends[0], ends[1]


def uniform(sde: SDE, steps: int) -> Array:
    """t_i = t_max + i/n (t_min - t_max). Its other name is "linspace", as in diffusers."""
    u = _unit(steps)
    return _between(sde, u, sde.t_max + u * (sde.t_min - sde.t_max))


def quadratic(sde: SDE, steps: int) -> Array:
    """sqrt(t_i) uniform. Song et al. 2021 (DDIM), app. D.2."""
    u = _unit(steps)
    root_max, root_min = jnp.sqrt(jnp.asarray(sde.t_max)), jnp.sqrt(jnp.asarray(sde.t_min))
    return _between(sde, u, (root_max + u * (root_min - root_max)) ** 2)


def log_snr(sde: SDE, steps: int) -> Array:
    """lambda(t_i) uniform. Lu et al. 2022 (DPM-Solver), sec. 3.3.

    Its other name is "exponential", as in k-diffusion, since sigma / alpha is geometric.
    """
    u = _unit(steps)
    low, high = _log_snr_ends(sde)
    return _between(sde, u, sde.t_of_log_snr(low + u * (high - low)))


def karras(sde: SDE, steps: int, rho: float = 7.0) -> Array:
    """(sigma_i / alpha_i)^(1/rho) uniform. Karras et al. 2022, eq. 5."""
    u = _unit(steps)
    high, low = (jnp.exp(-log_snr / rho) for log_snr in _log_snr_ends(sde))
    return _between(sde, u, sde.t_of_log_snr(-rho * jnp.log(high + u * (low - high))))


def cosine(sde: SDE, steps: int) -> Array:
    """arctan(sigma_i / alpha_i) uniform: the steps that a cosine schedule takes.

    Nichol & Dhariwal 2021; Salimans & Ho 2022, whose angle phi it is. Defined where alpha = 0 too.
    """
    u = _unit(steps)
    high, low = (jnp.arctan(jnp.exp(-sde.log_snr(t))) for t in (sde.t_max, sde.t_min))
    angle = high + u * (low - high)
    return _between(sde, u, sde.t_of_log_snr(-jnp.log(jnp.tan(angle))))


def beta(sde: SDE, steps: int, a: float = 0.6, b: float = 0.6) -> Array:
    """t_i at uniform quantiles of the beta distribution over [t_min, t_max]; dense at both ends.

    Lee et al. 2024 (Beta Sampling), whose values of a and b these are. diffusers has the quantiles
    in sigma / alpha, which are those of EDM's times.
    """
    u = _unit(steps)

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        below = jax.scipy.special.betainc(a, b, middle) < 1.0 - u
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 40, halve, (jnp.zeros_like(u), jnp.ones_like(u)))
    return _between(sde, u, sde.t_min + 0.5 * (low + high) * (sde.t_max - sde.t_min))


def leading(sde: SDE, steps: int, num_scales: int = 1000) -> Array:
    """The times k (N // (n + 1)), k = n, ..., 0, of a chain of N = num_scales times, as DDIM's.

    Made for models trained on the chain, and for `denoise_last`, which is the (n + 1)-th step.
    Starts below t_max, for which Lin et al. 2024, table 2, prefer `trailing`; what they call
    linspace is `uniform`.

    Raises ValueError for N steps or more, and where the rounding leaves out more than a quarter of
    the chain: 600 steps, which are one apart, would start at t = 0.6, as they do in diffusers.
    """
    spacing, left_out = divmod(num_scales, _times("leading", steps, num_scales))
    if 4 * left_out > num_scales:
        raise ValueError(
            f"leading with {steps} steps leaves out the noisiest {left_out} of {num_scales} "
            f"times, as their spacing is rounded down to {spacing}: use trailing, or other steps"
        )
    return _of_chain("leading", sde, np.arange(steps, -1, -1) * spacing, num_scales)


def trailing(sde: SDE, steps: int, num_scales: int = 1000) -> Array:
    """The times round(N - k N / (n + 1)) - 1, k = 0, ..., n, of a chain of N = num_scales times.

    Made for models trained on the chain, and for `denoise_last`, which is the (n + 1)-th step.
    Starts at t_max and ends a step above t = 0. Lin et al. 2024, table 2.

    Raises ValueError for N steps or more.
    """
    spacing = num_scales / _times("trailing", steps, num_scales)
    index = np.round(num_scales - np.arange(steps + 1) * spacing) - 1
    return _of_chain("trailing", sde, index, num_scales)


def _times(name: str, steps: int, num_scales: int) -> int:
    """n + 1; ValueError where the chain has fewer times."""
    times = len(_unit(steps))
    if times > num_scales:
        raise ValueError(
            f"{name} takes at most {num_scales - 1} steps of a chain of {num_scales} times, as "
            f"denoise_last is one more, got {steps}"
        )
    return times


def _of_chain(name: str, sde: SDE, index: np.ndarray, num_scales: int) -> Array:
    part = index / (num_scales - 1)
    require(
        lambda t_min, t_max: part[-2] * t_max > t_min,
        f"{name} with {len(index) - 1} steps has more than one time up to t_min: use fewer steps",
        t_min=sde.t_min,
        t_max=sde.t_max,
    )
    return jnp.maximum(jnp.asarray(part) * sde.t_max, sde.t_min)


GRIDS: dict[str, Callable[..., Array]] = {
    "uniform": uniform,
    "linspace": uniform,
    "quadratic": quadratic,
    "log_snr": log_snr,
    "exponential": log_snr,
    "karras": karras,
    "cosine": cosine,
    "beta": beta,
    "leading": leading,
    "trailing": trailing,
}


def named(name: str, sde: SDE, steps: int, **fields: float) -> Array:
    """The grid of that name with `steps` steps; ValueError lists the choices."""
    return choose("grid", name, GRIDS)(sde, steps, **fields)
