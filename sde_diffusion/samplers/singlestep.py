"""Singlestep exponential integrators: DPM-Solver-2 and 3, DPM-Solver++(2S), RES."""

import dataclasses
from typing import ClassVar

from sde_diffusion.noise import Keys
from sde_diffusion.samplers.exponential import Exponential, Span, between, phi, seen
from sde_diffusion.samplers.solver import Model, State
from sde_diffusion.sdes import SDE, Array


@dataclasses.dataclass(frozen=True)
class _TwoStages(Exponential):
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

    def step(self, key: Keys, model: Model, sde: SDE, state: State, t: Array, s: Array) -> State:
        return State(self.pair(model, sde, state.x, t, s)[0])

    def pair(self, model: Model, sde: SDE, x: Array, t: Array, s: Array) -> tuple[Array, Array]:
        """x_s, and the x_s of order 1 from the first stage."""
        span, u = self.span(sde, t, s), between(sde, t, s, self.c2)
        first = model(x, t)
        second = model(self.euler(first, u), u)
        slope = (seen(self.view, second) - seen(self.view, first)) / self.c2
        euler = self.euler(first, s)
        return euler + span.scale * self.weight(span) * slope, euler


@dataclasses.dataclass(frozen=True)
class DPMSolver2S(_TwoStages):
    """DPM-Solver-2, order 2 in eps.

        u = t_lambda(lambda_t + h / 2);  x_u by exponential Euler
        x_s = alpha_s / alpha_t x_t - sigma_s (exp(h) - 1) eps(x_u, u)

    that is w = (exp(h) - 1) / 2. Every step is of order 2, also where the budget is odd and the
    authors' code ends with one of order 1. Lu et al. 2022 (DPM-Solver), algorithm 1.
    """

    view = "eps"

    def weight(self, span: Span) -> Array:
        return 0.5 * span.h * phi(1, span.z)


@dataclasses.dataclass(frozen=True)
class DPMSolverPP2S(_TwoStages):
    """DPM-Solver++(2S), order 2 in x0.

        u = t_lambda(lambda_t + h / 2);  x_u by exponential Euler
        x_s = sigma_s / sigma_t x_t + alpha_s (1 - exp(-h)) x0(x_u, u)

    that is w = (1 - exp(-h)) / 2. Every step is of order 2, as those of `DPMSolver2S`.
    Lu et al. 2022 (DPM-Solver++), algorithm 1.
    """

    view = "x0"

    def weight(self, span: Span) -> Array:
        return 0.5 * span.h * phi(1, span.z)


@dataclasses.dataclass(frozen=True)
class RES2S(_TwoStages):
    """Exponential Runge-Kutta method of order 2 in x0.

        u = t_lambda(lambda_t + h / 2);  x_u by exponential Euler;  D = x0(x_u, u) - x0(x_t, t)
        x_s = sigma_s / sigma_t x_t + alpha_s h (phi_1(-h) x0(x_t, t) + 2 phi_2(-h) D)

    that is w = h phi_2(-h). It fulfils the stiff order conditions, which DPM-Solver++(2S) does to
    leading order in h only. Zhang et al. 2023 (RES), algorithm 1 and table 3; Hochbruck & Ostermann
    2010, example 2.18.
    """

    view = "x0"

    def weight(self, span: Span) -> Array:
        return span.h * phi(2, span.z)


@dataclasses.dataclass(frozen=True)
class _ThreeStages(Exponential):
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

    def step(self, key: Keys, model: Model, sde: SDE, state: State, t: Array, s: Array) -> State:
        return State(self.pair(model, sde, state.x, t, s)[0])

    def pair(self, model: Model, sde: SDE, x: Array, t: Array, s: Array) -> tuple[Array, Array]:
        """x_s, and the x_s of order 2 from the first two stages, with the w of DPM-Solver-2."""
        c2, c3 = self.c2, self.c3
        gamma = (3.0 * c3**2 - 2.0 * c3) / (c2 * (2.0 - 3.0 * c2))
        u2, u3 = between(sde, t, s, c2), between(sde, t, s, c3)
        span = self.span(sde, t, s)
        scale3 = self.span(sde, t, u3).scale

        first = model(x, t)
        second = model(self.euler(first, u2), u2)
        d2 = seen(self.view, second) - seen(self.view, first)
        a32 = gamma * c2 * phi(2, c2 * span.z) + c3**2 / c2 * phi(2, c3 * span.z)
        third = model(self.euler(first, u3) + scale3 * span.h * a32 * d2, u3)
        d3 = seen(self.view, third) - seen(self.view, first)
        slope = (gamma * d2 + d3) / (gamma * c2 + c3)
        euler, scale = self.euler(first, s), span.scale * span.h
        return (
            euler + scale * phi(2, span.z) * slope,
            euler + scale * phi(1, span.z) * d2 / (2.0 * c2),
        )


@dataclasses.dataclass(frozen=True)
class DPMSolver3S(_ThreeStages):
    """DPM-Solver-3, order 3 in eps, with r1 = 1/3 and r2 = 2/3, here c2 and c3.

        D_i = eps(x_i, u_i) - eps(x_t, t),  u_i = t_lambda(lambda_t + h c_i)
        x_2 = exponential Euler to u_2
        x_3 = exponential Euler to u_3 - sigma_{u_3} h 4/3 phi_2(2/3 h) D_2
        x_s = alpha_s / alpha_t x_t - sigma_s h (phi_1(h) eps(x_t, t) + 3/2 phi_2(h) D_3)

    Every step is of order 3: `DPMSolverFast` uses up a budget with steps of order 2 and 1.
    Lu et al. 2022 (DPM-Solver), algorithm 2.
    """

    view = "eps"
    c2 = 1 / 3
    c3 = 2 / 3


@dataclasses.dataclass(frozen=True)
class RES3S(_ThreeStages):
    """Exponential Runge-Kutta method of order 3 in x0, with c2 = 1/2 and c3 = 1.

        D_i = x0(x_i, u_i) - x0(x_t, t),  u_2 = t_lambda(lambda_t + h / 2),  u_3 = s
        x_2 = exponential Euler to u_2
        x_3 = exponential Euler to s + alpha_s h (2 phi_2(-h/2) + 2 phi_2(-h)) D_2
        x_s = sigma_s / sigma_t x_t
              + alpha_s h (phi_1(-h) x0(x_t, t) + phi_2(-h) (4 D_2 + D_3) / 3)

    Zhang et al. 2023 (RES); Hochbruck & Ostermann 2005, sec. 5.
    """

    view = "x0"
    c2 = 0.5
    c3 = 1.0
