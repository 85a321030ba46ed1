"""Steps that predict x_0 and go back to time s: ancestral sampling and DDIM."""

import dataclasses

import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Model, Solver, State
from sde_diffusion.sdes import SDE, Array
from sde_diffusion.selection import require_known


@dataclasses.dataclass(frozen=True)
class Ancestral(Solver):
    """Ancestral sampling from q(x_s | x_t, x_0) at the predicted x_0; weak order 1.

    With the forward transition x_t = a x_s + b z:

        x_s = (a sigma_s^2 x_t + alpha_s b^2 x_0) / sigma_t^2 + c z
        c = b sigma_s / sigma_t (variance "posterior"),  c = b (variance "forward")

    These are DDPM's two choices of the variance. Ho et al. 2020, eqs. 6, 7 and sec. 3.2;
    for VE, Song et al. 2021, eq. 47, with the variance "posterior".
    """

    order = 1
    strong_order = 1
    variance: str = "posterior"

    def __post_init__(self) -> None:
        require_known("variance", self.variance, ("posterior", "forward"))

    @property
    def stochastic(self) -> bool:
        return True

    def step(self, key: Keys, model: Model, sde: SDE, state: State, t: Array, s: Array) -> State:
        x = state.x
        a, b = sde.transition(t, s)
        sigma_t, sigma_s = sde.sigma(t), sde.sigma(s)
        of_x, of_x0 = a * (sigma_s / sigma_t) ** 2, sde.alpha(s) * (b / sigma_t) ** 2
        std = b * sigma_s / sigma_t if self.variance == "posterior" else b
        mean = of_x * x + of_x0 * model(x, t).x0
        return State(mean + std * noise.normal(key, x))


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
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"DDIM takes eta from 0 to 1, got {self.eta}")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0.0

    def step(self, key: Keys, model: Model, sde: SDE, state: State, t: Array, s: Array) -> State:
        x = state.x
        prediction = model(x, t)
        # (b / sigma_t)^2 = 1 - SNR_t / SNR_s, without a subtraction of close numbers
        ratio = -jnp.expm1(2.0 * (sde.log_snr(t) - sde.log_snr(s)))
        kept = sde.sigma(s) * jnp.sqrt(1.0 - self.eta**2 * ratio)
        x = sde.alpha(s) * prediction.x0 + kept * prediction.eps
        if self.stochastic:
            x = x + self.eta * sde.sigma(s) * jnp.sqrt(ratio) * noise.normal(key, x)
        return State(x)
