"""The reverse diffusion sampler, which mirrors the discretized forward chain."""

import dataclasses
from typing import Any

from sde_diffusion import noise
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Solver, State
from sde_diffusion.sdes import Array


@dataclasses.dataclass(frozen=True)
class ReverseDiffusion(Solver):
    """The reverse SDE, discretized in the same way as the forward SDE; weak order 1.

    With the forward transition x_t = a x_s + b z:  x_s = (2 - a) x_t + b^2 score + b z.
    Song et al. 2021, eq. 46, for VE and VP the predictors of their algorithms 2 and 3; here a and b
    come from the time grid.
    """

    order = 1
    strong_order = 1

    @property
    def stochastic(self) -> bool:
        return True

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        x, sde = state.x, model.sde
        a, b = sde.transition(t, s)
        mean = (2.0 - a) * x + b**2 * model(x, t, cond).score
        return State(mean + b * noise.normal(key, x))
