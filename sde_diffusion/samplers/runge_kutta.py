"""Explicit Runge-Kutta methods on the probability flow, each given by its tableau."""

import dataclasses
from typing import Any, ClassVar

from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Solver, State
from sde_diffusion.sdes import Array


@dataclasses.dataclass(frozen=True)
class _RungeKutta(Solver):
    """k_i = dx/dt at (x + (s - t) sum_j a_ij k_j, t + c_i (s - t));  x_s = x + (s - t) sum b_i k_i.

    `a` holds the rows below the first, which is empty; c_i is the sum of row i.
    """

    a: ClassVar[tuple[tuple[float, ...], ...]]
    b: ClassVar[tuple[float, ...]]

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        x, dt = state.x, s - t
        slopes = [model(x, t, cond).velocity]
        for row in self.a:
            stage = x + dt * _combine(row, slopes)
            slopes.append(model(stage, t + sum(row) * dt, cond).velocity)
        return State(x + dt * _combine(self.b, slopes))


def _combine(weights: tuple[float, ...], slopes: list[Array]) -> Array:
    terms = [w * k for w, k in zip(weights, slopes, strict=True) if w]
    return sum(terms[1:], terms[0])


@dataclasses.dataclass(frozen=True)
class Midpoint(_RungeKutta):
    """x_s = x_t + (s - t) dx/dt at the middle of an Euler step; order 2. Runge 1895."""

    order = 2
    evaluations = 2
    a = ((0.5,),)
    b = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class RK4(_RungeKutta):
    """The classical Runge-Kutta method of order 4, on the probability flow.

        k_1 = dx/dt (x_t, t);                          k_2 = dx/dt (x_t + h k_1 / 2, t + h / 2)
        k_3 = dx/dt (x_t + h k_2 / 2, t + h / 2);      k_4 = dx/dt (x_t + h k_3, s)
        x_s = x_t + h (k_1 + 2 k_2 + 2 k_3 + k_4) / 6,  h = s - t

    Kutta 1901.
    """

    order = 4
    evaluations = 4
    a = ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))
    b = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
