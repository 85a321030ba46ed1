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
import math
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

Array = jax.Array
Time = jax.Array | float
Model = Callable[..., Any]

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def kind(cls: type[T]) -> type[T]:
    """Make a class of SDE a value: frozen, hashable, and a pytree whose leaves are its fields.

    So an SDE can be closed over, be a static argument (equal SDEs do not retrace), or be traced:
    one can differentiate or vmap over beta_max.
    """
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


def expand(coefficient: Array | float, x: Array) -> Array:
    """A coefficient of shape [] or [B], with axes of length one added until it multiplies x."""
    c = jnp.asarray(coefficient)
    return c.reshape(c.shape + (1,) * (x.ndim - c.ndim)) if c.ndim else c


def _time(t: Time) -> Array:
    t = jnp.asarray(t)
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.result_type(float))


def _rate(function: Callable[[Array], Array], t: Time) -> Array:
    """d/dt of a function that acts on each time alone."""
    t = _time(t)
    return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]


def _require(condition: Callable[..., bool], message: str, **values: Any) -> None:
    """Raise ValueError unless the condition holds; only plain numbers can be checked."""
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

    def __post_init__(self) -> None:
        _require(
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
        return _rate(self.alpha, t)

    def sigma_dot(self, t: Time) -> Array:
        """d sigma / dt."""
        return _rate(self.sigma, t)

    def f(self, t: Time) -> Array:
        """d log alpha / dt, eq. (2): the drift is f(t) x."""
        return _rate(lambda t: jnp.log(self.alpha(t)), t)

    def diffusion(self, t: Time) -> Array:
        """g(t), eq. (3)."""
        t = _time(t)
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
        t = _time(t)
        return jnp.log(self.alpha(t)) - jnp.log(self.sigma(t))

    def t_of_log_snr(self, log_snr: Array | float) -> Array:
        """The time at which lambda has the given value, in [1e-8 t_max, t_max].

        Bisection in log t, then one Newton step, which gives the last digits and the derivatives.
        """
        target = _time(log_snr)
        low = jnp.full_like(target, 1e-8) * self.t_max
        high = jnp.full_like(target, 1.0) * self.t_max

        def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = jnp.sqrt(low * high)
            too_early = self.log_snr(middle) > target
            return jnp.where(too_early, middle, low), jnp.where(too_early, high, middle)

        low, high = jax.lax.fori_loop(0, 40, halve, (low, high))
        t = jax.lax.stop_gradient(jnp.sqrt(low * high))
        rate = jax.lax.stop_gradient(_rate(self.log_snr, t))
        newton = t - (self.log_snr(t) - target) / rate
        return jnp.clip(newton, 1e-8 * self.t_max, self.t_max)

    def marginal_prob(self, x0: Array, t: Time) -> tuple[Array, Array]:
        """(mean [B, *event], std [] or [B]) of x_t given x_0, eq. (1)."""
        t = _time(t)
        return expand(self.alpha(t), x0) * x0, self.sigma(t)

    def transition(self, t: Time, s: Time) -> tuple[Array, Array]:
        """(a, b) with x_t | x_s ~ N(a x_s, b^2 I) for s <= t; b^2 = sigma_t^2 - a^2 sigma_s^2."""
        t, s = _time(t), _time(s)
        b = self.sigma(t) * jnp.sqrt(-jnp.expm1(2.0 * (self.log_snr(t) - self.log_snr(s))))
        return self.alpha(t) / self.alpha(s), b

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
        return self.sigma(_time(self.t_max))

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

    def reverse(self, model: Model) -> Callable[[Array, Time], tuple[Array, Array]]:
        """(x, t) -> (drift, diffusion) of the reverse SDE; drift = f x - g^2 score.

        Source: Anderson 1982; Song et al. 2021, eq. 6.
        """

        def reverse_sde(x: Array, t: Time) -> tuple[Array, Array]:
            drift, diffusion = self.sde(x, t)
            return drift - expand(diffusion**2, x) * model(x, t).score, diffusion

        return reverse_sde

    def probability_flow(self, model: Model) -> Callable[[Array, Time], Array]:
        """(x, t) -> dx/dt of the probability-flow ODE, f x - g^2 score / 2.

        It is read as the velocity d alpha/dt x0 + d sigma/dt eps, the same function, which stays
        finite where alpha vanishes. Source: Song et al. 2021, eq. 13.
        """
        return lambda x, t: model(x, t).velocity


@kind
class VP(SDE):
    """Variance preserving, the limit of DDPM: dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw.

    beta(t) = beta_min + t (beta_max - beta_min); alpha = exp(-B/2), sigma^2 = 1 - exp(-B) with
    B(t) the integral of beta. Source: Song et al. 2021, eqs. 11, 32 and 33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            lambda low, high: 0 < low <= high,
            f"{type(self).__name__} needs 0 < beta_min <= beta_max",
            beta_min=self.beta_min,
            beta_max=self.beta_max,
        )

    def beta(self, t: Time) -> Array:
        return self.beta_min + _time(t) * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Time) -> Array:
        t = _time(t)
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def t_of_log_alpha(self, log_alpha: Array) -> Array:
        # The positive root of the quadratic, in the form that does not subtract near t = 0.
        slope = self.beta_max - self.beta_min
        half = 0.5 * self.beta_min
        return -2.0 * log_alpha / (half + jnp.sqrt(half**2 - slope * log_alpha))

    def alpha(self, t: Time) -> Array:
        return jnp.exp(self.log_alpha(t))

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(-jnp.expm1(2.0 * self.log_alpha(t)))

    def sigma_dot(self, t: Time) -> Array:
        # From alpha^2 + sigma^2 = 1: differentiating expm1 would lose digits where alpha is small.
        return -(self.alpha(t) ** 2) * self.f(t) / self.sigma(t)

    def f(self, t: Time) -> Array:
        return -0.5 * self.beta(t)

    def diffusion(self, t: Time) -> Array:
        return jnp.sqrt(self.beta(t))

    def log_snr(self, t: Time) -> Array:
        log_alpha = self.log_alpha(t)
        return log_alpha - 0.5 * jnp.log(-jnp.expm1(2.0 * log_alpha))

    def t_of_log_snr(self, log_snr: Array | float) -> Array:
        return self.t_of_log_alpha(-0.5 * jax.nn.softplus(-2.0 * _time(log_snr)))

    def betas(self, num_scales: int) -> Array:
        """DDPM's beta_i, [N]: beta(t) / N at N times from 0 to t_max. Song et al. 2021, app. C."""
        return jnp.linspace(self.beta_min / num_scales, self.beta_max / num_scales, num_scales)

    def discretize(self, x: Array, t: Time, num_scales: int) -> tuple[Array, Array]:
        """DDPM's chain x_{i+1} = sqrt(1 - beta_i) x_i + sqrt(beta_i) z, at the index of time t."""
        beta = self.betas(num_scales)[_index(t, self.t_max, num_scales)]
        return expand(jnp.expm1(0.5 * jnp.log1p(-beta)), x) * x, jnp.sqrt(beta)

    @property
    def prior_std(self) -> Array | float:
        return 1.0


@kind
class SubVP(VP):
    """sub-VP: the drift of VP, with less noise: g^2 = beta (1 - exp(-2 B)), sigma = 1 - exp(-B).

    Source: Song et al. 2021, eqs. 14 and 34.
    """

    def sigma(self, t: Time) -> Array:
        return -jnp.expm1(2.0 * self.log_alpha(t))

    def sigma_dot(self, t: Time) -> Array:
        return -2.0 * self.alpha(t) ** 2 * self.f(t)

    def diffusion(self, t: Time) -> Array:
        return jnp.sqrt(-self.beta(t) * jnp.expm1(4.0 * self.log_alpha(t)))

    def log_snr(self, t: Time) -> Array:
        log_alpha = self.log_alpha(t)
        return log_alpha - jnp.log(-jnp.expm1(2.0 * log_alpha))

    def t_of_log_snr(self, log_snr: Array | float) -> Array:
        # alpha / sigma = alpha / (1 - alpha^2) = 1 / (2 sinh(-log alpha))
        return self.t_of_log_alpha(-jnp.arcsinh(0.5 * jnp.exp(-_time(log_snr))))

    def discretize(self, x: Array, t: Time, num_scales: int) -> tuple[Array, Array]:
        return SDE.discretize(self, x, t, num_scales)


@kind
class VE(SDE):
    """Variance exploding, the limit of SMLD: alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t.

    Source: Song et al. 2021, eqs. 9 and 30. Time is in units of t_max = 1.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = dataclasses.field(default=1e-5, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            lambda low, high: 0 < low < high,
            "VE needs 0 < sigma_min < sigma_max",
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
        )

    @property
    def log_ratio(self) -> Array:
        return jnp.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(_time(t))

    def sigma(self, t: Time) -> Array:
        return self.sigma_min * jnp.exp(_time(t) * self.log_ratio)

    def f(self, t: Time) -> Array:
        return jnp.zeros_like(_time(t))

    def diffusion(self, t: Time) -> Array:
        return self.sigma(t) * jnp.sqrt(2.0 * self.log_ratio)

    def log_snr(self, t: Time) -> Array:
        return -jnp.log(self.sigma_min) - _time(t) * self.log_ratio

    def t_of_log_snr(self, log_snr: Array | float) -> Array:
        return -(_time(log_snr) + jnp.log(self.sigma_min)) / self.log_ratio

    def sigmas(self, num_scales: int) -> Array:
        """SMLD's noise levels, [N], a rising geometric sequence. Song et al. 2021, app. C."""
        return self.sigma(jnp.linspace(0.0, self.t_max, num_scales))

    def discretize(self, x: Array, t: Time, num_scales: int) -> tuple[Array, Array]:
        """SMLD's chain x_{i+1} = x_i + sqrt(sigma_{i+1}^2 - sigma_i^2) z, with sigma_0 = 0."""
        index = _index(t, self.t_max, num_scales)
        sigmas = self.sigmas(num_scales)
        before = jnp.where(index == 0, 0.0, sigmas[jnp.maximum(index - 1, 0)])
        return jnp.zeros_like(x), jnp.sqrt(sigmas[index] ** 2 - before**2)


@kind
class Cosine(SDE):
    """alpha = cos(theta(t)) / cos(theta(0)), theta = pi/2 (t + s) / (1 + s); variance preserving.

    `shift` adds log(shift) to lambda: for images of side d, shift = 64 / d keeps the noise of a
    64-pixel model after averaging. f diverges at t = 1, so t_max is 0.9946, as in DPM-Solver.
    Sources: Nichol & Dhariwal 2021, eq. 17; Hoogeboom et al. 2023 (simple diffusion), sec. 3.1;
    Lu et al. 2022, app. D.
    """

    s: float = 0.008
    shift: float = 1.0
    t_max: float = dataclasses.field(default=0.9946, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(lambda t_max: t_max < 1, "Cosine needs t_max < 1", t_max=self.t_max)
        _require(
            lambda s, shift: s > 0 and shift > 0,
            "Cosine needs s > 0 and shift > 0",
            s=self.s,
            shift=self.shift,
        )

    @property
    def _theta_dot(self) -> Array:
        return 0.5 * math.pi / (1.0 + jnp.asarray(self.s))

    @property
    def _theta0(self) -> Array:
        return self.s * self._theta_dot

    def _unshifted(self, t: Time) -> tuple[Array, Array]:
        """alpha and sigma at shift = 1, times cos(theta0)."""
        turn = self._theta_dot * _time(t)  # theta - theta0
        alpha = jnp.sin(self._theta_dot * (1.0 - _time(t)))  # 1 - t is exact where alpha is small
        # cos(theta0)^2 - cos(theta)^2 = sin(theta - theta0) sin(theta + theta0)
        return alpha, jnp.sqrt(jnp.sin(turn) * jnp.sin(turn + 2.0 * self._theta0))

    def alpha(self, t: Time) -> Array:
        alpha, sigma = self._unshifted(t)
        return self.shift * alpha / jnp.hypot(self.shift * alpha, sigma)

    def sigma(self, t: Time) -> Array:
        alpha, sigma = self._unshifted(t)
        return sigma / jnp.hypot(self.shift * alpha, sigma)

    def log_snr(self, t: Time) -> Array:
        alpha, sigma = self._unshifted(t)
        return jnp.log(self.shift) + jnp.log(alpha) - jnp.log(sigma)

    def log_snr_dot(self, t: Time) -> Array:
        cos, sigma = self._unshifted(t)
        sin = jnp.sin(self._theta0 + self._theta_dot * _time(t))
        return -self._theta_dot * (sin / cos + sin * cos / sigma**2)

    def f(self, t: Time) -> Array:
        # alpha^2 + sigma^2 = 1, so d log alpha = sigma^2 d lambda
        return self.sigma(t) ** 2 * self.log_snr_dot(t)

    def diffusion(self, t: Time) -> Array:
        return self.sigma(t) * jnp.sqrt(-2.0 * self.log_snr_dot(t))

    def t_of_log_snr(self, log_snr: Array | float) -> Array:
        unshifted = _time(log_snr) - jnp.log(self.shift)
        cos0 = jnp.cos(self._theta0)
        cos = cos0 * jnp.exp(-0.5 * jax.nn.softplus(-2.0 * unshifted))
        # sin(theta - theta0) sin(theta + theta0) = cos(theta0)^2 - cos(theta)^2
        product = cos0**2 * jax.nn.sigmoid(-2.0 * unshifted)
        theta = jnp.arctan2(jnp.sqrt(jnp.sin(self._theta0) ** 2 + product), cos)
        # theta - theta0 from its own sine, which keeps its digits when theta is close to theta0
        turn = jnp.arctan2(product / jnp.sin(theta + self._theta0), jnp.cos(theta - self._theta0))
        return turn / self._theta_dot


@kind
class EDM(SDE):
    """alpha = 1, sigma = t: time is the noise level itself, from 0.002 to 80.

    Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative
    Models", sec. 3 and table 1.
    """

    t_max: float = dataclasses.field(default=80.0, kw_only=True)
    t_min: float = dataclasses.field(default=0.002, kw_only=True)

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(_time(t))

    def sigma(self, t: Time) -> Array:
        return _time(t)

    def f(self, t: Time) -> Array:
        return jnp.zeros_like(_time(t))

    def diffusion(self, t: Time) -> Array:
        return jnp.sqrt(2.0 * _time(t))

    def log_snr(self, t: Time) -> Array:
        return -jnp.log(_time(t))

    def t_of_log_snr(self, log_snr: Array | float) -> Array:
        return jnp.exp(-_time(log_snr))


@kind
class Flow(SDE):
    """The straight path x_t = (1 - t) x_0 + t eps of flow matching and rectified flow.

    g^2 = 2 t / (1 - t) diverges at t = 1, where the ODE is regular: solvers that draw noise need
    t_max below 1, such as Flow(t_max=0.999). Sources: Lipman et al. 2023; Liu et al. 2023, eq. 1.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(lambda t_max: t_max <= 1, "Flow needs t_max <= 1", t_max=self.t_max)

    def alpha(self, t: Time) -> Array:
        return 1.0 - _time(t)

    def sigma(self, t: Time) -> Array:
        return _time(t)

    def f(self, t: Time) -> Array:
        return -1.0 / (1.0 - _time(t))

    def diffusion(self, t: Time) -> Array:
        t = _time(t)
        return jnp.sqrt(2.0 * t / (1.0 - t))

    def log_snr(self, t: Time) -> Array:
        t = _time(t)
        return jnp.log1p(-t) - jnp.log(t)

    def t_of_log_snr(self, log_snr: Array | float) -> Array:
        return jax.nn.sigmoid(-_time(log_snr))


def _index(t: Time, t_max: float, num_scales: int) -> Array:
    """The index 0..N-1 of time t on the grid that discrete-time models are trained on."""
    return (_time(t) * (num_scales - 1) / t_max).astype(jnp.int32)


KINDS: dict[str, type[SDE]] = {
    "vp": VP,
    "subvp": SubVP,
    "ve": VE,
    "cosine": Cosine,
    "edm": EDM,
    "flow": Flow,
}
