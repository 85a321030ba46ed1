"""Time grids: n + 1 decreasing times for n steps, from t_max (noise) to t_min (data).

Every grid takes `t_min` and `t_max` as keyword arguments; the defaults are the ends of the SDE. A
grid is an array, so it can be traced, differentiated, or written by hand. The step to t = 0 with
which other libraries' grids end, such as EDM's, is the one that `denoise_last` makes.

A network that was trained on a chain of N times, labelled 0, ..., N - 1, is evaluated at labels
that it knows on the grids `leading`, `trailing` and `linspace`. They take `num_scales` for N; the
default is the chain of a `Tabulated` SDE, and 1,000 for every other one.
"""

import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.sdes import SDE, Array, Time
from sde_diffusion.sdes.base import ROUNDING, chain_length, ends, is_known
from sde_diffusion.selection import choose, require_known


def uniform(sde: SDE, steps: int, *, t_min: Time | None = None, t_max: Time | None = None) -> Array:
    """t_i = t_max + i/n (t_min - t_max)."""
    u, low, high = _unit(steps), *ends(sde, t_min, t_max)
    return _filled("uniform", sde, u, low, high, high + u * (low - high))


def quadratic(
    sde: SDE, steps: int, *, t_min: Time | None = None, t_max: Time | None = None
) -> Array:
    """sqrt(t_i) uniform. Song et al. 2021 (DDIM), app. D.2."""
    u, low, high = _unit(steps), *ends(sde, t_min, t_max)
    root_high, root_low = jnp.sqrt(jnp.asarray(high)), jnp.sqrt(jnp.asarray(low))
    inner = (root_high + u * (root_low - root_high)) ** 2
    return _filled("quadratic", sde, u, low, high, inner)


def log_snr(sde: SDE, steps: int, *, t_min: Time | None = None, t_max: Time | None = None) -> Array:
    """lambda(t_i) uniform. Lu et al. 2022 (DPM-Solver), sec. 3.3.

    Its other name is "exponential", as in k-diffusion, since sigma / alpha is geometric.
    """
    u, low, high = _unit(steps), *ends(sde, t_min, t_max)
    first, last = _finite_log_snr(sde, "t_max", high), _finite_log_snr(sde, "t_min", low)
    inner = sde.t_of_log_snr(first + u * (last - first))
    return _filled("log_snr", sde, u, low, high, inner)


def karras(
    sde: SDE,
    steps: int,
    rho: float = 7.0,
    *,
    t_min: Time | None = None,
    t_max: Time | None = None,
) -> Array:
    """(sigma_i / alpha_i)^(1/rho) uniform. Karras et al. 2022, eq. 5."""
    u, low, high = _unit(steps), *ends(sde, t_min, t_max)
    first = jnp.exp(-_finite_log_snr(sde, "t_max", high) / rho)
    last = jnp.exp(-_finite_log_snr(sde, "t_min", low) / rho)
    inner = sde.t_of_log_snr(-rho * jnp.log(first + u * (last - first)))
    return _filled("karras", sde, u, low, high, inner)


def cosine(sde: SDE, steps: int, *, t_min: Time | None = None, t_max: Time | None = None) -> Array:
    """arctan(sigma_i / alpha_i) uniform: the steps that a cosine schedule takes.

    Nichol & Dhariwal 2021; Salimans & Ho 2022, whose angle phi it is. Defined where alpha = 0 too.
    """
    u, low, high = _unit(steps), *ends(sde, t_min, t_max)
    first, last = (jnp.arctan(jnp.exp(-sde.log_snr(t))) for t in (high, low))
    inner = sde.t_of_log_snr(-jnp.log(jnp.tan(first + u * (last - first))))
    return _filled("cosine", sde, u, low, high, inner)


def beta(
    sde: SDE,
    steps: int,
    a: float = 0.6,
    b: float = 0.6,
    *,
    t_min: Time | None = None,
    t_max: Time | None = None,
) -> Array:
    """t_i at uniform quantiles of the beta distribution over [t_min, t_max]; dense at both ends.

    Lee et al. 2024 (Beta Sampling), whose values of a and b these are. diffusers has the quantiles
    in sigma / alpha, which are those of EDM's times.
    """
    u, low, high = _unit(steps), *ends(sde, t_min, t_max)

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        left, right = bracket
        middle = 0.5 * (left + right)
        below = jax.scipy.special.betainc(a, b, middle) < 1.0 - u
        return jnp.where(below, middle, left), jnp.where(below, right, middle)

    left, right = jax.lax.fori_loop(0, 40, halve, (jnp.zeros_like(u), jnp.ones_like(u)))
    inner = low + 0.5 * (left + right) * (high - low)
    return _filled("beta", sde, u, low, high, inner)


def leading(
    sde: SDE,
    steps: int,
    num_scales: int | None = None,
    steps_offset: int = 0,
    to_first: bool = False,
    *,
    t_min: Time | None = None,
    t_max: Time | None = None,
) -> Array:
    """The times k (N // m) + steps_offset, k = m - 1, ..., 0, of a chain of N times.

    m = n + 1 times make n steps, and `denoise_last` is the m-th: DDIM's spacing, and diffusers'
    with m inference steps. With `to_first` they are m = n times, and the n-th step goes to the
    first time of the chain, which keeps its noise: sample it with denoise_last=False. diffusers
    has this as set_alpha_to_one=False, or final_sigmas_type="sigma_min". Stable Diffusion uses
    steps_offset=1.

    Starts below t_max, for which Lin et al. 2024, table 2, prefer `trailing`. A given t_max leaves
    out the later times of the chain, and a given t_min raises the last time.

    Raises ValueError for more steps than the chain has, an offset that leaves the chain, and where
    the rounding leaves out more than a quarter of it: 600 steps, which are one apart, would start
    at t = 0.6, as they do in diffusers.
    """
    chain = _Chain("leading", sde, num_scales, t_min, t_max)
    spacing, left_out = divmod(chain.known, chain.times(steps, to_first))
    if 4 * left_out > chain.known:
        raise ValueError(
            f"leading with {steps} steps leaves out the noisiest {left_out} of {chain.known} "
            f"times, as their spacing is rounded down to {spacing}: use trailing, or other steps"
        )
    index = np.arange(steps - to_first, -1, -1) * spacing + steps_offset
    if steps_offset < 0 or index[0] >= chain.known:
        raise ValueError(
            f"leading with {steps} steps and steps_offset={steps_offset} leaves the chain's "
            f"times, which are 0 to {chain.known - 1}: its own are {index[-1]} to {index[0]}"
        )
    return chain.at(index, to_first)


def trailing(
    sde: SDE,
    steps: int,
    num_scales: int | None = None,
    to_first: bool = False,
    *,
    t_min: Time | None = None,
    t_max: Time | None = None,
) -> Array:
    """The times round(N - k N / m) - 1, k = 0, ..., m - 1, of a chain of N times.

    m, `to_first`, t_min and t_max are those of `leading`. Starts at t_max and ends a step above
    the first time, unless `to_first`. Lin et al. 2024, table 2.

    Raises ValueError for more steps than the chain has.
    """
    chain = _Chain("trailing", sde, num_scales, t_min, t_max)
    times = chain.times(steps, to_first)
    index = np.round(chain.known - np.arange(times) * (chain.known / times)) - 1
    return chain.at(index, to_first)


def linspace(
    sde: SDE,
    steps: int,
    num_scales: int | None = None,
    *,
    t_min: Time | None = None,
    t_max: Time | None = None,
) -> Array:
    """n + 1 times of a chain from its last to its first, as evenly spaced as rounding allows.

    diffusers' spacing with n + 1 inference steps, the last of which is `denoise_last`.
    DPM-Solver++'s, which has n + 1 such steps and one to the data, is linspace(sde, n + 1)[:-1].
    Lin et al. 2024, table 2. t_min and t_max are those of `leading`.

    Raises ValueError for more steps than the chain has.
    """
    chain = _Chain("linspace", sde, num_scales, t_min, t_max)
    return chain.at(np.round(np.linspace(chain.known - 1, 0, chain.times(steps))), False)


def _unit(steps: int) -> Array:
    if steps < 1:
        raise ValueError(f"a grid needs at least 1 step, got {steps}")
    return jnp.linspace(0.0, 1.0, steps + 1)


def _finite_log_snr(sde: SDE, end: str, t: Time) -> Array:
    """lambda(t) at an end; ValueError where it is known to be infinite."""
    log_snr = sde.log_snr(t)
    if is_known(log_snr) and not jnp.isfinite(log_snr):
        example = {"t_max": 0.999, "t_min": 0.001}[end]
        raise ValueError(
            f"{type(sde).__name__} has no finite log-SNR at {end}={float(t):g}: use another grid, "
            f"or another {end} such as {example}"
        )
    return log_snr


def _filled(name: str, sde: SDE, u: Array, low: Time, high: Time, inner: Array) -> Array:
    """The inner times between the ends, which are t_max and t_min themselves, not rounded."""
    times = jnp.where(u == 0.0, high, jnp.where(u == 1.0, low, inner))
    return _distinct(name, sde, times)


def _distinct(name: str, sde: SDE, times: Array) -> Array:
    """The times; ValueError where they are known not to decrease."""
    if not is_known(times):
        return times
    values = np.asarray(times)
    stays = np.flatnonzero(~(np.diff(values) < 0.0))
    if not stays.size:
        return times
    first, last = int(stays[0]), int(stays[-1])
    # Times that meet do so at an end, where the log-SNR changes fast.
    end, example = ("t_max", "0.999") if first < len(values) - 2 - last else ("t_min", "0.001")
    raise ValueError(
        f"{name} with {len(values) - 1} steps on {type(sde).__name__} needs times that "
        f"{values.dtype} cannot tell apart, near t={values[first]:.8g}: use another grid such as "
        f"uniform, or another {end} such as {example}"
    )


class _Chain:
    """The times of a chain of N, of which the first `known` are at or below a given t_max."""

    def __init__(
        self, name: str, sde: SDE, num_scales: int | None, t_min: Time | None, t_max: Time | None
    ):
        self.name, self.sde = name, sde
        self.t_min = ends(sde, t_min, t_max)[0]
        self.num_scales = chain_length(sde, num_scales)
        self.known = self.num_scales
        if t_max is not None:
            part = float(t_max) / float(sde.t_max) * (1.0 + ROUNDING)
            self.known = min(int(part * (self.num_scales - 1)), self.num_scales - 1) + 1

    def times(self, steps: int, to_first: bool = False) -> int:
        """m, how many times are evaluated; ValueError where the chain has fewer."""
        times = len(_unit(steps)) - to_first
        most = self.known - 1
        if steps > most:
            why = "" if to_first else ", as denoise_last is one more"
            raise ValueError(
                f"{self.name} takes at most {most} steps of a chain of {self.known} times{why}, "
                f"got {steps}"
            )
        return times

    def at(self, index: np.ndarray, to_first: bool) -> Array:
        """The times of these indices, none below t_min, and that of index 0 after them."""
        if to_first:
            if index[-1] == 0:
                raise ValueError(
                    f"{self.name} ends at the chain's first time already: leave out to_first, and "
                    "take one step less"
                )
            index = np.append(index, 0)
        last = self.num_scales - 1
        if not is_known(self.sde.t_max, self.t_min):
            traced = jnp.asarray(index) * (jnp.asarray(self.sde.t_max) / last)
            return jnp.maximum(traced, self.t_min)
        # Rounded once, so that the times of a chain that counts its steps are whole numbers.
        times = index * float(self.sde.t_max) / last
        if not times[-2] > float(self.t_min):
            raise ValueError(
                f"{self.name} with {len(index) - 1} steps has more than one time up to t_min: "
                f"use fewer steps, got t_min={float(self.t_min):g}, t_max={float(self.sde.t_max):g}"
            )
        return _distinct(self.name, self.sde, jnp.asarray(np.maximum(times, float(self.t_min))))


GRIDS: dict[str, Callable[..., Array]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "log_snr": log_snr,
    "exponential": log_snr,
    "karras": karras,
    "cosine": cosine,
    "beta": beta,
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
}


def named(
    name: str,
    sde: SDE,
    steps: int,
    *,
    t_min: Time | None = None,
    t_max: Time | None = None,
    **fields: float,
) -> Array:
    """The grid of that name with `steps` steps; ValueError lists the choices."""
    return with_fields(name, **fields)(sde, steps, t_min=t_min, t_max=t_max)


def with_fields(name: str, **fields: float) -> Callable[..., Array]:
    """The grid function of that name with these fields, such as rho; ValueError lists the choices.

    `with_fields("karras", rho=3.0)(sde, steps)` is `karras(sde, steps, rho=3.0)`.
    """
    grid = choose("grid", name, GRIDS)
    known = [field for field in inspect.signature(grid).parameters if field not in ("sde", "steps")]
    for field in fields:
        require_known(f"field of grid {name!r}", field, known)
    return functools.partial(grid, **fields)
