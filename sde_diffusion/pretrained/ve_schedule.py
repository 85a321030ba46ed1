"""ScoreSdeVeScheduler's config as a VE SDE with its grid.

n steps have the times t_1 = 1, ..., t_n = sampling_eps, evenly spaced; the last goes to the data.
A step is Langevin correction, then the reverse diffusion predictor. The size of a correction is
measured by the norms of each sample, where diffusers takes their means over the batch, so that a
sample does not depend on its neighbours. There is no correction at the last time.

Song et al. 2021, algorithm 2 and app. G.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from sde_diffusion import grids, parameterization, samplers
from sde_diffusion.samplers import Solver
from sde_diffusion.sdes import VE

NAME = "ScoreSdeVeScheduler"


@dataclasses.dataclass(frozen=True)
class VESchedule:
    """The SDE of a ScoreSdeVeScheduler, and how it samples by default in `steps` steps."""

    sde: VE
    solver: Solver
    steps: int

    parameterization: ClassVar = parameterization.NCSN()
    clip: ClassVar = None

    def grid(self, steps: int, size: tuple[int, int] | None = None) -> tuple[jax.Array, bool]:
        """The times t_1, ..., t_n, and True, as an evaluation at t_n gives the data."""
        if steps < 2:
            raise ValueError(f"a sample takes at least 2 steps, got {steps}")
        return grids.uniform(self.sde, steps - 1), True


def read_ve_schedule(
    config: Mapping[str, Any], source: str = "scheduler_config.json"
) -> VESchedule:
    """The schedule of a ScoreSdeVeScheduler's config; ValueError, with `source`, for another."""
    if config.get("_class_name") != NAME:
        raise ValueError(f"{source}: the scheduler of this pipeline must be {NAME}")
    sde = VE(
        config.get("sigma_min", 0.01),
        config.get("sigma_max", 1348.0),
        t_min=config.get("sampling_eps", 1e-5),
    )
    solver: Solver = samplers.ReverseDiffusion()
    corrections = config.get("correct_steps", 1)
    if corrections:
        langevin = samplers.Langevin(config.get("snr", 0.15), corrections)
        solver = samplers.PredictorCorrector(solver, langevin)
    return VESchedule(sde, solver, config.get("num_train_timesteps", 2000))
