"""SEEDS-3: DPM-Solver-3 in x0 on the reverse SDE."""

import dataclasses

from sde_diffusion.samplers.dpm_solver import DPMSolver3S
from sde_diffusion.samplers.noisy import NoisyStages


@dataclasses.dataclass(frozen=True)
class SEEDS3(NoisyStages, DPMSolver3S):
    """SEEDS-3 in x0, of weak order 2 and strong order 1 with three evaluations a step.

        x_2 = exponential Euler with noise to a third of the step in lambda
        x_3 = the same to two thirds + 2 (1 + eta) alpha h phi_2(2 z / 3) D_2 2 / 3
        x_s = the same to the end + 3 / 2 (1 + eta) alpha_s h phi_2(z) D_3,   z = -(1 + eta) h

    D_i = x0(x_i) - x0(x_t), and each noise contains the one before. At eta = 0 of order 3.
    Gonzalez et al. 2023 (SEEDS), whose algorithms 2 to 4 are in eps.
    """

    order = 2
    nodes = (1 / 3, 2 / 3)
