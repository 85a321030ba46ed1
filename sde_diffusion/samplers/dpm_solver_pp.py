"""DPM-Solver++: 2S, 2M and 3M, exponential integrators in x0."""

import dataclasses

import jax.numpy as jnp

from sde_diffusion.samplers.exponential import (
    Span,
    phi,
)
from sde_diffusion.samplers.multistep import Multistep, Past
from sde_diffusion.samplers.singlestep import TwoStages
from sde_diffusion.sdes import Array


@dataclasses.dataclass(frozen=True)
class DPMSolverPP2S(TwoStages):
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
class DPMSolverPP2M(Multistep):
    """DPM-Solver++(2M), order 2 in x0 with one evaluation a step.

    Like Adams-Bashforth, but with (1 - exp(-h)) / 2 in place of h phi_2(-h):
    x_s = sigma_s / sigma_t x_t + alpha_s (1 - exp(-h)) (x0 + d1 / 2). Lu et al. 2022
    (DPM-Solver++), algorithm 2.
    """

    view = "x0"
    order = 2

    def weights(self, past: Past, span: Span, s: Array) -> tuple[Array, ...]:
        return (0.5 * span.h * phi(1, span.z),)


@dataclasses.dataclass(frozen=True)
class DPMSolverPP3M(Multistep):
    """DPM-Solver++(3M) as its authors published it, of order 2 with one evaluation a step.

    x_s = sigma_s / sigma_t x_t + alpha_s h (phi_1 x0 + phi_2 (d1 + d2) + q phi_3 d2). The quadratic
    term of P(u) has the weight q phi_3, half of its integral 2 q phi_3. Therefore the method is not
    of third order, as its name suggests (2.08 is measured). With few steps, where extrapolation is
    risky, the smaller weight has the smaller error. `UniPC(p=3, corrector=False)` has the exact
    weight and order 3. The second and the last step are those of 2M. Lu et al. 2022 (DPM-Solver++),
    as `multistep_dpm_solver_third_update` of its authors' code has it.
    """

    view = "x0"
    order = 2
    kept = 2

    def weights(self, past: Past, span: Span, s: Array) -> tuple[Array, ...]:
        first, second = past.weights(span)
        alone = 0.5 * span.h * phi(1, span.z)
        return jnp.where(past.linear(s), alone, first), 0.5 * (first + second)
