"""RES: exponential Runge-Kutta methods in x0 that meet the stiff order conditions."""

import dataclasses

from sde_diffusion.samplers.exponential import (
    Span,
    phi,
)
from sde_diffusion.samplers.singlestep import ThreeStages, TwoStages
from sde_diffusion.sdes import Array


@dataclasses.dataclass(frozen=True)
class RES2S(TwoStages):
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
class RES3S(ThreeStages):
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
