"""Heun's method in time on the probability-flow ODE."""

import dataclasses
from typing import Any

from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Solver, State
from sde_diffusion.sdes import Array


@dataclasses.dataclass(frozen=True)
class Heun(Solver):
    """Heun's step of the probability flow in t, of order 2 with two evaluations.

    x_e = x_t + (s - t) dx/dt (x_t, t);  x_s = x_t + (s - t) (dx/dt (x_t, t) + dx/dt (x_e, s)) / 2

    Karras et al. 2022, algorithm 1, whose last step, to sigma = 0, is an Euler step.
    """

    order = 2
    evaluations = 2

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        x = state.x
        slope = model(x, t, cond).velocity
        euler = x + (s - t) * slope
        return State(x + 0.5 * (s - t) * (slope + model(euler, s, cond).velocity))
