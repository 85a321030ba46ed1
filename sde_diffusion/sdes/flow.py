"""The straight path of flow matching."""

import jax
import jax.numpy as jnp

from sde_diffusion.sdes.base import SDE, Array, Time, as_time, kind, require


@kind
class Flow(SDE):
    """The straight path x_t = (1 - t) x_0 + t eps of flow matching and rectified flow.

    g^2 = 2 t / (1 - t) diverges at t = 1, where the ODE is regular: solvers that draw noise need
    t_max below 1, such as Flow(t_max=0.999). Sources: Lipman et al. 2023; Liu et al. 2023, eq. 1.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require(lambda t_max: t_max <= 1, "Flow needs t_max <= 1", t_max=self.t_max)

    def alpha(self, t: Time) -> Array:
        return 1.0 - as_time(t)

    def sigma(self, t: Time) -> Array:
        return as_time(t)

    def f(self, t: Time) -> Array:
        return -1.0 / (1.0 - as_time(t))

    def diffusion(self, t: Time) -> Array:
        t = as_time(t)
        return jnp.sqrt(2.0 * t / (1.0 - t))

    def log_snr(self, t: Time) -> Array:
        t = as_time(t)
        return jnp.log1p(-t) - jnp.log(t)

    def t_of_log_snr(self, log_snr: Array | float) -> Array:
        return jax.nn.sigmoid(-as_time(log_snr))
