"""The costs of a program on devices that need not be present.

The program is compiled ahead of time for a topology. Its costs are read off the compiler's account
and the compiled text: memory, operations, bytes, messages, cycles, and from these a time.
"""

from sde_diffusion.planning.chips import CHIPS, Chip
from sde_diffusion.planning.collectives import Collective
from sde_diffusion.planning.kernels import Kernel
from sde_diffusion.planning.programs import lower_sampler_step, lower_training_step
from sde_diffusion.planning.read import DoesNotFit, Program, compile_program
from sde_diffusion.planning.roofline import Time, estimate
from sde_diffusion.planning.topology import Topology, named

__all__ = [
    "CHIPS",
    "Chip",
    "Collective",
    "DoesNotFit",
    "Kernel",
    "Program",
    "Time",
    "Topology",
    "compile_program",
    "estimate",
    "lower_sampler_step",
    "lower_training_step",
    "named",
]
