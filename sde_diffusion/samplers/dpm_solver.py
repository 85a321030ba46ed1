"""DPM-Solver-2 and DPM-Solver-3: singlestep exponential integrators in eps."""

import dataclasses

from sde_diffusion.samplers.exponential import (
    Span,
    phi,
)
from sde_diffusion.samplers.singlestep import ThreeStages, TwoStages
from sde_diffusion.sdes import Array


@dataclasses.dataclass(frozen=True)
class DPMSolver2S(TwoStages):
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
class DPMSolver3S(ThreeStages):
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
