"""SDEs that turn data into noise, each given by alpha(t) and sigma(t).

    dx = f(t) x dt + g(t) dw            x_t | x_0 ~ N(alpha(t) x_0, sigma(t)^2 I)            (1)
    f = d/dt log alpha                                                                       (2)
    g^2 = d/dt sigma^2 - 2 f sigma^2 = -2 sigma^2 d/dt lambda                                (3)
    lambda = log(alpha / sigma)                                                              (4)

Time runs from 0 (data) to `t_max` (noise); sampling stops at `t_min`. A kind of SDE is a class
with `alpha` and `sigma`; the base class derives the rest, and a kind overrides whatever it has a
better closed form for. All is accurate in float32 from t = 1e-5 on.

The continuous-time view and the names follow Song et al. 2021, "Score-Based Generative Modeling
through Stochastic Differential Equations"; (2) and (3) are eq. 2 of Kingma et al. 2021,
"Variational Diffusion Models", in the variables of Lu et al. 2022, "DPM-Solver".
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Self, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.pytree import pytree

Array = jax.Array
Time = jax.Array | float

# What float32 rounds away from a time that was computed.
ROUNDING = 1e-6

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def kind(cls: type[T]) -> type[T]:
    """Make a class of SDE a value: frozen, hashable, and a pytree whose leaves are its fields.

    So an SDE can be closed over, be a static argument (equal SDEs do not retrace), or be traced:
    one can differentiate or vmap over beta_max.
    """
    made = pytree(cls)
    made.__kind__ = made  # type: ignore[attr-defined]
    return made


def expand(coefficient: Array | float, x: Array) -> Array:
    """A coefficient of shape [] or [B], with axes of length one added until it multiplies x."""
    c = jnp.asarray(coefficient)
    return c.reshape(c.shape + (1,) * (x.ndim - c.ndim)) if c.ndim else c


def as_time(t: Time) -> Array:
    """t as a floating-point array."""
    t = jnp.asarray(t)
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.result_type(float))


def rate(function: Callable[[Array], Array], t: Time) -> Array:
    """d/dt of a function that acts on each time alone."""
    t = as_time(t)
    return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]


def is_known(*values: Time) -> bool:
    """Whether these are numbers, as opposed to what a transformation traces."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def require(condition: Callable[..., bool], message: str, **values: Any) -> None:
    """Raise ValueError unless the condition holds; only plain numbers can be checked.

    Raises TypeError for a text.
    """
    for name, value in values.items():
        if isinstance(value, str):
            raise TypeError(f"{name} must be a number, got {value!r}")
    if all(type(v) in (int, float) for v in values.values()) and not condition(*values.values()):
        given = ", ".join(f"{name}={value}" for name, value in values.items())
        raise ValueError(f"{message}, got {given}")


@kind
class SDE:
    """A linear SDE with additive noise, eq. (1); subclass it with `alpha` and `sigma`.

        @sde_diffusion.kind
        class Quadratic(sde_diffusion.SDE):
            sigma_max: float = 10.0

            def alpha(self, t):
                return jnp.ones_like(t)

            def sigma(self, t):
                return self.sigma_max * t**2

    Times are arrays of shape [] or [B], samples x are [B, *event].
    """

    t_max: float = dataclasses.field(default=1.0, kw_only=True)
    t_min: float = dataclasses.field(default=1e-3, kw_only=True)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if cls.__dict__.get("__kind__") is not cls:
            raise TypeError(
                f"{cls.__name__} is a subclass of SDE without its decorator: write "
                f"@sde_diffusion.kind above `class {cls.__name__}`"
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        require(
            lambda low, high: 0 <= low < high,
            f"{type(self).__name__} needs 0 <= t_min < t_max",
            t_min=self.t_min,
            t_max=self.t_max,
        )

    # What a kind gives.

    def alpha(self, t: Time) -> Array:
        """Scale of the data in x_t."""
        raise NotImplementedError(f"{type(self).__name__} must define alpha(t)")

    def sigma(self, t: Time) -> Array:
        """Standard deviation of the noise in x_t."""
        raise NotImplementedError(f"{type(self).__name__} must define sigma(t)")

    # What follows from it.

    def alpha_dot(self, t: Time) -> Array:
        """d alpha / dt."""
        return rate(self.alpha, t)

    def sigma_dot(self, t: Time) -> Array:
        """d sigma / dt."""
        return rate(self.sigma, t)

    def f(self, t: Time) -> Array:
        """d log alpha / dt, eq. (2): the drift is f(t) x."""
        return rate(lambda t: jnp.log(self.alpha(t)), t)

    def diffusion(self, t: Time) -> Array:
        """g(t), eq. (3)."""
        t = as_time(t)
        sigma = self.sigma(t)
        return jnp.sqrt(2.0 * sigma * (self.sigma_dot(t) - self.f(t) * sigma))

    def drift(self, x: Array, t: Time) -> Array:
        """f(t) x."""
        return expand(self.f(t), x) * x

    def sde(self, x: Array, t: Time) -> tuple[Array, Array]:
        """(drift [B, *event], diffusion [] or [B]) of the forward SDE (1)."""
        return self.drift(x, t), self.diffusion(t)

    def log_snr(self, t: Time) -> Array:
        """lambda = log(alpha / sigma), half the log of the signal-to-noise ratio, eq. (4)."""
        t = as_time(t)
        return jnp.log(self.alpha(t)) - jnp.log(self.sigma(t))

    def t_of_log_snr(self, log_snr: Array | float) -> Array:
        """The time at which lambda has the given value, in [1e-8 t_max, t_max].

        Bisection in log t, then one Newton step, which gives the last digits and the derivatives.
        """
        target = as_time(log_snr)
        low = jnp.full_like(target, 1e-8) * self.t_max
        high = jnp.full_like(target, 1.0) * self.t_max

        def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = jnp.sqrt(low * high)
            too_early = self.log_snr(middle) > target
            return jnp.where(too_early, middle, low), jnp.where(too_early, high, middle)

        low, high = jax.lax.fori_loop(0, 40, halve, (low, high))
        t = jax.lax.stop_gradient(jnp.sqrt(low * high))
        slope = jax.lax.stop_gradient(rate(self.log_snr, t))
        newton = t - (self.log_snr(t) - target) / slope
        # The bisection is right for an infinite target, for which Newton's step is inf - inf.
        finite = jnp.isfinite(target) & jnp.isfinite(newton)
        return jnp.clip(jnp.where(finite, newton, t), 1e-8 * self.t_max, self.t_max)

    @property
    def num_scales(self) -> int | None:
        """How many times the chain has that this SDE tabulates; None for one that has no chain."""
        return None

    def marginal_prob(self, x0: Array, t: Time) -> tuple[Array, Array]:
        """(mean [B, *event], std [] or [B]) of x_t given x_0, eq. (1)."""
        t = as_time(t)
        return expand(self.alpha(t), x0) * x0, self.sigma(t)

    def log_snr_rise(self, t: Time, s: Time) -> Array:
        """h = lambda_s - lambda_t of a step; 0 where s = t, though lambda be infinite."""
        apart, t, s = self._apart(t, s)
        return jnp.where(apart, self.log_snr(s) - self.log_snr(t), 0.0)

    def transition(self, t: Time, s: Time) -> tuple[Array, Array]:
        """(a, b) with x_t | x_s ~ N(a x_s, b^2 I) for s <= t; b^2 = sigma_t^2 - a^2 sigma_s^2.

        (1, 0) where s = t, though alpha be 0 there.
        """
        apart, t, s = self._apart(t, s)
        b = self.sigma(t) * jnp.sqrt(-jnp.expm1(2.0 * (self.log_snr(t) - self.log_snr(s))))
        a = self.alpha(t) / self.alpha(s)
        return jnp.where(apart, a, 1.0), jnp.where(apart, b, 0.0)

    def _apart(self, t: Time, s: Time) -> tuple[Array, Array, Array]:
        """Whether lambda differs from t to s, t and s; and two other times where it does not.

        What is then discarded is finite with its derivatives, and 0 / 0, inf - inf and the square
        root's slope at 0 reach neither value nor gradient.
        """
        t, s = as_time(t), as_time(s)
        apart = self.log_snr(t) != self.log_snr(s)
        return apart, jnp.where(apart, t, 0.5 * self.t_max), jnp.where(apart, s, 0.25 * self.t_max)

    def discretize(self, x: Array, t: Time, num_scales: int) -> tuple[Array, Array]:
        """(f, G) of the forward chain x_{i+1} = x_i + f + G z with N = num_scales steps.

        The Euler-Maruyama step of length t_max / N; VP and VE override it with the chains of DDPM
        and SMLD. Source: Song et al. 2021, eq. 45.
        """
        drift, diffusion = self.sde(x, t)
        dt = self.t_max / num_scales
        return drift * dt, diffusion * jnp.sqrt(dt)

    @property
    def prior_std(self) -> Array | float:
        """Standard deviation of the prior N(0, prior_std^2 I) at t_max."""
        return self.sigma(as_time(self.t_max))

    def prior_sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        """A sample of the prior, [B, *event]."""
        return self.prior_std * jax.random.normal(key, shape)

    def prior_log_prob(self, x: Array) -> Array:
        """log density of the prior in nats, [B] for x of shape [B, *event]."""
        event = tuple(range(1, x.ndim))
        size = math.prod(x.shape[1:])
        std = jnp.asarray(self.prior_std)
        square = jnp.sum((x / std) ** 2, axis=event)
        return -0.5 * square - size * (jnp.log(std) + 0.5 * math.log(2.0 * math.pi))


def require_falling_log_snr(sde: SDE) -> None:
    """ValueError unless alpha and sigma are not negative and their ratio falls from t_min to t_max.

    Looked at on some 60 times, where the SDE's fields are known numbers.
    """
    leaves = jax.tree.leaves(sde)
    if not is_known(*leaves):
        return
    if any(isinstance(leaf, jax.Array) for leaf in leaves):  # these cannot be hashed
        _require_falling_log_snr.__wrapped__(sde)
    else:
        _require_falling_log_snr(sde)


@functools.lru_cache(maxsize=256)
def _require_falling_log_snr(sde: SDE) -> None:
    name, low, high = type(sde).__name__, float(sde.t_min), float(sde.t_max)
    share = np.concatenate([[0.0], np.geomspace(1e-4, 0.02, 20), np.linspace(0.025, 1.0, 40)])
    t = low + share * (high - low)
    with jax.ensure_compile_time_eval():
        times = jnp.asarray(t)
        told = [np.asarray(jnp.broadcast_to(f(times), t.shape)) for f in (sde.alpha, sde.sigma)]
        log_snr = np.asarray(jnp.broadcast_to(sde.log_snr(times), t.shape))
    for function, values in zip(("alpha", "sigma"), told, strict=True):
        wrong = np.flatnonzero(~(values >= 0.0))
        if wrong.size:
            at = wrong[0]
            raise ValueError(
                f"{name} has {function}(t) = {values[at]:g} at t = {t[at]:g}: it must be a number "
                f"of at least 0 from t_min={low:g} to t_max={high:g}"
            )
    rises = np.flatnonzero(~(np.diff(log_snr) < 0.0))
    if rises.size:
        i, j = rises[0], rises[0] + 1
        raise ValueError(
            f"{name} needs a log-SNR, log(alpha / sigma), that falls from t_min={low:g} to "
            f"t_max={high:g}: it is {log_snr[i]:.6g} at t = {t[i]:.4g} and {log_snr[j]:.6g} at "
            f"t = {t[j]:.4g}"
        )


def ends(sde: SDE, t_min: Time | None, t_max: Time | None) -> tuple[Time, Time]:
    """(t_min, t_max), those of the SDE where None; ValueError unless 0 <= t_min < t_max <= T."""
    require_falling_log_snr(sde)
    low = sde.t_min if t_min is None else t_min
    high = sde.t_max if t_max is None else t_max
    if is_known(low, high, sde.t_max):
        for name, t in (("t_min", low), ("t_max", high)):
            if not 0.0 <= float(t) <= float(sde.t_max) * (1.0 + ROUNDING):
                raise ValueError(
                    f"{name} must be from 0 to the t_max of {type(sde).__name__}, "
                    f"{float(sde.t_max):g}, got {float(t):g}"
                )
        if not float(low) < float(high):
            raise ValueError(f"t_min must be below t_max, got {float(low):g} and {float(high):g}")
    return low, high


def chain_length(sde: SDE, num_scales: int | None) -> int:
    """N of a chain: num_scales, or that of the SDE, or 1,000; ValueError where they differ."""
    if None not in (num_scales, sde.num_scales) and num_scales != sde.num_scales:
        raise ValueError(
            f"num_scales={num_scales}, but the chain of {type(sde).__name__} has "
            f"{sde.num_scales} times"
        )
    return num_scales or sde.num_scales or 1000


def chain_index(t: Time, t_max: float, num_scales: int) -> Array:
    """The index 0..N-1 of time t on the grid that discrete-time models are trained on."""
    return (as_time(t) * (num_scales - 1) / t_max).astype(jnp.int32)


def chain_step(x: Array, beta: Array) -> tuple[Array, Array]:
    """(f, G) of DDPM's step x' = sqrt(1 - beta) x + sqrt(beta) z = x + f + G z."""
    return expand(jnp.expm1(0.5 * jnp.log1p(-beta)), x) * x, jnp.sqrt(beta)
