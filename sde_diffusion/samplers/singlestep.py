"""What the singlestep exponential integrators share: two and three stages within a step."""

import dataclasses
from typing import Any, ClassVar

from sde_diffusion.noise import Keys
from sde_diffusion.samplers.exponential import (
    Exponential,
    Span,
    between,
    phi,
    seen,
)
from sde_diffusion.samplers.solver import Counted, State
from sde_diffusion.sdes import Array


@dataclasses.dataclass(frozen=True)
class TwoStages(Exponential):
    """u = t_lambda(lambda_t + h c2);  x_u by exponential Euler;  D = (F(x_u, u) - F(x_t, t)) / c2.

        x_s = exponential Euler + scale w(h) D

    F is the view "x0" or "eps", with the scale of that view.
    """

    order = 2
    evaluations = 2
    c2: ClassVar[float] = 0.5

    def weight(self, span: Span) -> Array:
        """w(h), which must be h / 2 + O(h^2)."""
        raise NotImplementedError

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        return State(self.pair(model, state.x, t, s, cond)[0])

    def pair(
        self, model: Counted, x: Array, t: Array, s: Array, cond: Any = None
    ) -> tuple[Array, Array]:
        """x_s, and the x_s of order 1 from the first stage."""
        sde = model.sde
        span, u = self.span(sde, t, s), between(sde, t, s, self.c2)
        first = model(x, t, cond)
        second = model(self.euler(first, u), u, cond)
        slope = (seen(self.view, second) - seen(self.view, first)) / self.c2
        euler = self.euler(first, s)
        return euler + span.scale * self.weight(span) * slope, euler


@dataclasses.dataclass(frozen=True)
class ThreeStages(Exponential):
    """The exponential Runge-Kutta methods of order 3 with nodes c2 and c3.

        D_i = F(x_i, u_i) - F(x_t, t),  u_i = t_lambda(lambda_t + h c_i)
        x_2 = exponential Euler to u_2
        x_3 = exponential Euler to u_3 + scale h (gamma c2 phi_2(c2 z) + c3^2 / c2 phi_2(c3 z)) D_2
        x_s = exponential Euler + scale h phi_2(z) (gamma D_2 + D_3) / (gamma c2 + c3)

    with 2 (gamma c2 + c3) = 3 (gamma c2^2 + c3^2). Hochbruck & Ostermann 2005, sec. 5.
    """

    order = 3
    evaluations = 3
    c2: ClassVar[float]
    c3: ClassVar[float]

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        return State(self.pair(model, state.x, t, s, cond)[0])

    def pair(
        self, model: Counted, x: Array, t: Array, s: Array, cond: Any = None
    ) -> tuple[Array, Array]:
        """x_s, and the x_s of order 2 from the first two stages, with the w of DPM-Solver-2."""
        sde = model.sde
        c2, c3 = self.c2, self.c3
        gamma = (3.0 * c3**2 - 2.0 * c3) / (c2 * (2.0 - 3.0 * c2))
        u2, u3 = between(sde, t, s, c2), between(sde, t, s, c3)
        span = self.span(sde, t, s)
        scale3 = self.span(sde, t, u3).scale

        first = model(x, t, cond)
        second = model(self.euler(first, u2), u2, cond)
        d2 = seen(self.view, second) - seen(self.view, first)
        a32 = gamma * c2 * phi(2, c2 * span.z) + c3**2 / c2 * phi(2, c3 * span.z)
        third = model(self.euler(first, u3) + scale3 * span.h * a32 * d2, u3, cond)
        d3 = seen(self.view, third) - seen(self.view, first)
        slope = (gamma * d2 + d3) / (gamma * c2 + c3)
        euler, scale = self.euler(first, s), span.scale * span.h
        return (
            euler + scale * phi(2, span.z) * slope,
            euler + scale * phi(1, span.z) * d2 / (2.0 * c2),
        )
