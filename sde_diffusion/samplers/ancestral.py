"""Ancestral sampling: a draw from q(x_s | x_t, x_0) at the predicted x_0."""

import dataclasses
from typing import Any

from sde_diffusion import noise
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Solver, State
from sde_diffusion.sdes import Array
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

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        x, sde = state.x, model.sde
        a, b = sde.transition(t, s)
        sigma_t, sigma_s = sde.sigma(t), sde.sigma(s)
        of_x, of_x0 = a * (sigma_s / sigma_t) ** 2, sde.alpha(s) * (b / sigma_t) ** 2
        std = b * sigma_s / sigma_t if self.variance == "posterior" else b
        mean = of_x * x + of_x0 * model(x, t, cond).x0
        return State(mean + std * noise.normal(key, x))
