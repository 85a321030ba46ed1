"""DDIM: back to time s through the predicted x_0, with any share of the ancestral noise."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Solver, State, is_off
from sde_diffusion.sdes import Array
from sde_diffusion.sdes.base import require


@dataclasses.dataclass(frozen=True)
class DDIM(Solver):
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - c^2) eps + c z,  c = eta b sigma_s / sigma_t.

    eta = 0 is deterministic (the exponential Euler step of the probability flow); eta = 1 is
    ancestral sampling with the posterior variance. Order 1. Song et al. 2021 (DDIM), eqs. 12, 16.
    """

    order = 1
    strong_order = 1
    eta: float = 0.0

    def __post_init__(self) -> None:
        require(lambda eta: 0.0 <= eta <= 1.0, "DDIM takes eta from 0 to 1", eta=self.eta)

    @property
    def stochastic(self) -> bool:
        return not is_off(self.eta)

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        x, sde = state.x, model.sde
        prediction = model(x, t, cond)
        # (b / sigma_t)^2 = 1 - SNR_t / SNR_s, without a subtraction of close numbers
        ratio = -jnp.expm1(2.0 * (sde.log_snr(t) - sde.log_snr(s)))
        kept = sde.sigma(s) * jnp.sqrt(1.0 - self.eta**2 * ratio)
        x = sde.alpha(s) * prediction.x0 + kept * prediction.eps
        if self.stochastic:
            x = x + self.eta * sde.sigma(s) * jnp.sqrt(ratio) * noise.normal(key, x)
        return State(x)
