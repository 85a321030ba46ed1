"""SDEs with alpha = 1: VE and EDM."""

import dataclasses

import jax.numpy as jnp

from sde_diffusion.sdes.base import SDE, Array, Time, as_time, chain_index, kind, require


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
        require(
            lambda low, high: 0 < low < high,
            "VE needs 0 < sigma_min < sigma_max",
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
        )

    @property
    def log_ratio(self) -> Array:
        return jnp.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(as_time(t))

    def sigma(self, t: Time) -> Array:
        return self.sigma_min * jnp.exp(as_time(t) * self.log_ratio)

    def f(self, t: Time) -> Array:
        return jnp.zeros_like(as_time(t))

    def diffusion(self, t: Time) -> Array:
        return self.sigma(t) * jnp.sqrt(2.0 * self.log_ratio)

    def log_snr(self, t: Time) -> Array:
        return -jnp.log(self.sigma_min) - as_time(t) * self.log_ratio

    def t_of_log_snr(self, log_snr: Array | float) -> Array:
        return -(as_time(log_snr) + jnp.log(self.sigma_min)) / self.log_ratio

    def sigmas(self, num_scales: int) -> Array:
        """SMLD's noise levels, [N], a rising geometric sequence. Song et al. 2021, app. C."""
        return self.sigma(jnp.linspace(0.0, self.t_max, num_scales))

    def discretize(self, x: Array, t: Time, num_scales: int) -> tuple[Array, Array]:
        """SMLD's chain x_{i+1} = x_i + sqrt(sigma_{i+1}^2 - sigma_i^2) z, with sigma_0 = 0."""
        index = chain_index(t, self.t_max, num_scales)
        sigmas = self.sigmas(num_scales)
        before = jnp.where(index == 0, 0.0, sigmas[jnp.maximum(index - 1, 0)])
        return jnp.zeros_like(x), jnp.sqrt(sigmas[index] ** 2 - before**2)


@kind
class EDM(SDE):
    """alpha = 1, sigma = t: time is the noise level itself, from 0.002 to 80.

    Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative
    Models", sec. 3 and table 1.
    """

    t_max: float = dataclasses.field(default=80.0, kw_only=True)
    t_min: float = dataclasses.field(default=0.002, kw_only=True)

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(as_time(t))

    def sigma(self, t: Time) -> Array:
        return as_time(t)

    def f(self, t: Time) -> Array:
        return jnp.zeros_like(as_time(t))

    def diffusion(self, t: Time) -> Array:
        return jnp.sqrt(2.0 * as_time(t))

    def log_snr(self, t: Time) -> Array:
        return -jnp.log(as_time(t))

    def t_of_log_snr(self, log_snr: Array | float) -> Array:
        return jnp.exp(-as_time(log_snr))
