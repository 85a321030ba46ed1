"""SDE-DPM-Solver++: 2S, 2M and 3M on the reverse SDE."""

import dataclasses

from sde_diffusion.samplers.dpm_solver_pp import DPMSolverPP2M, DPMSolverPP2S, DPMSolverPP3M
from sde_diffusion.samplers.noisy import NoisyMultistep, NoisyStages


@dataclasses.dataclass(frozen=True)
class SDEDPMSolverPP2S(NoisyStages, DPMSolverPP2S):
    """DPM-Solver++(2S) of the SDE, of weak order 2 and strong order 1.

        x_u = exponential Euler with noise, lambda_u halfway;  D = x0(x_u, u) - x0(x_t, t)
        x_s = exponential Euler with noise + alpha_s (1 - exp(-(1 + eta) h)) D

    The noise of x_s contains that of x_u. This is `dpmpp_sde` of k-diffusion. It is SEEDS-2 in x0
    up to higher powers of h (Gonzalez et al. 2023, whose algorithms 2 to 4 are in eps), and
    DPM-Solver++(2S) at eta = 0.
    """

    nodes = (0.5,)


@dataclasses.dataclass(frozen=True)
class SDEDPMSolverPP2M(NoisyMultistep, DPMSolverPP2M):
    """SDE-DPM-Solver++(2M), of weak order 2 and strong order 1 with one evaluation a step.

        x_s = exponential Euler with noise + alpha_s (1 - exp(-(1 + eta) h)) d1 / 2

    d1 is that of `multistep`; eta = 0 is DPM-Solver++(2M). Lu et al. 2022 (DPM-Solver++), sec. 5,
    who have eta = 1; with eta as `sample_dpmpp_2m_sde` of k-diffusion has it.
    """


@dataclasses.dataclass(frozen=True)
class SDEDPMSolverPP3M(NoisyMultistep, DPMSolverPP3M):
    """DPM-Solver++(3M) of the SDE, of weak order 2 and strong order 1 with one evaluation a step.

    x_s = exponential Euler with noise + (1 + eta) alpha_s h (phi_2 (d1 + d2) + q phi_3 d2), with
    phi at -(1 + eta) h. At eta = 0 it is `DPMSolverPP3M`. There is no paper on it: it is
    `sample_dpmpp_3m_sde` of k-diffusion.
    """
