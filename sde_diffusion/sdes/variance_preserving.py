"""SDEs with alpha^2 + sigma^2 = 1, or below it: VP, sub-VP and the cosine schedule."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from sde_diffusion.sdes.base import (
    SDE,
    Array,
    Time,
    as_time,
    chain_index,
    chain_step,
    kind,
    require,
)


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
        require(
            lambda low, high: 0 < low <= high,
            f"{type(self).__name__} needs 0 < beta_min <= beta_max",
            beta_min=self.beta_min,
            beta_max=self.beta_max,
        )

    def beta(self, t: Time) -> Array:
        return self.beta_min + as_time(t) * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Time) -> Array:
        t = as_time(t)
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
        return self.t_of_log_alpha(-0.5 * jax.nn.softplus(-2.0 * as_time(log_snr)))

    def betas(self, num_scales: int) -> Array:
        """DDPM's beta_i, [N]: beta(t) / N at N times from 0 to t_max. Song et al. 2021, app. C.

        Raises ValueError where they do not stay below 1.
        """
        require(
            lambda beta_max, num_scales: beta_max < num_scales,
            "DDPM's chain needs beta_max < num_scales",
            beta_max=self.beta_max,
            num_scales=num_scales,
        )
        return jnp.linspace(self.beta_min / num_scales, self.beta_max / num_scales, num_scales)

    def discretize(self, x: Array, t: Time, num_scales: int) -> tuple[Array, Array]:
        """DDPM's chain x_{i+1} = sqrt(1 - beta_i) x_i + sqrt(beta_i) z, at the index of time t."""
        beta = self.betas(num_scales)[chain_index(t, self.t_max, num_scales)]
        return chain_step(x, beta)

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
        return self.t_of_log_alpha(-jnp.arcsinh(0.5 * jnp.exp(-as_time(log_snr))))

    def discretize(self, x: Array, t: Time, num_scales: int) -> tuple[Array, Array]:
        return SDE.discretize(self, x, t, num_scales)


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
        require(lambda t_max: t_max < 1, "Cosine needs t_max < 1", t_max=self.t_max)
        require(
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
        turn = self._theta_dot * as_time(t)  # theta - theta0
        alpha = jnp.sin(self._theta_dot * (1.0 - as_time(t)))  # 1 - t is exact where alpha is small
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
        sin = jnp.sin(self._theta0 + self._theta_dot * as_time(t))
        return -self._theta_dot * (sin / cos + sin * cos / sigma**2)

    def f(self, t: Time) -> Array:
        # alpha^2 + sigma^2 = 1, so d log alpha = sigma^2 d lambda
        return self.sigma(t) ** 2 * self.log_snr_dot(t)

    def diffusion(self, t: Time) -> Array:
        return self.sigma(t) * jnp.sqrt(-2.0 * self.log_snr_dot(t))

    def t_of_log_snr(self, log_snr: Array | float) -> Array:
        unshifted = as_time(log_snr) - jnp.log(self.shift)
        cos0 = jnp.cos(self._theta0)
        cos = cos0 * jnp.exp(-0.5 * jax.nn.softplus(-2.0 * unshifted))
        # sin(theta - theta0) sin(theta + theta0) = cos(theta0)^2 - cos(theta)^2
        product = cos0**2 * jax.nn.sigmoid(-2.0 * unshifted)
        theta = jnp.arctan2(jnp.sqrt(jnp.sin(self._theta0) ** 2 + product), cos)
        # theta - theta0 from its own sine, which keeps its digits when theta is close to theta0
        turn = jnp.arctan2(product / jnp.sin(theta + self._theta0), jnp.cos(theta - self._theta0))
        return turn / self._theta_dot
