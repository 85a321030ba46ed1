"""Pretrained pipelines as consistency models: few evaluations, each of which goes to the data.

A pretrained network has one time. As a consistency model its prediction is taken for where the
flow ends, and new noise is added between the steps: Luo et al. 2023 (LCM), and its adapters
(LCM-LoRA). diffusers calls the sampler LCMScheduler.
"""

import dataclasses
from functools import partial
from typing import Any

import jax

from sde_diffusion.flow_map import to_the_data
from sde_diffusion.pipeline import Pipeline, Size
from sde_diffusion.pretrained.schedule import consistency_times
from sde_diffusion.samplers import FlowMap
from sde_diffusion.sdes import Tabulated

NOTE, CONSISTENCY = "sde_diffusion.sampling", "consistency"
"""In the header of a file of adapters: that they make a consistency model of their base."""
STEPS = 4


def as_consistency(pipe: Pipeline) -> Pipeline:
    """The pipeline whose network was trained as a consistency model, also by adapters.

    Its guidance is 1, since the teacher was guided, unless the network is told the weight.
    """
    return dataclasses.replace(
        pipe,
        model=to_the_data(pipe.model),
        solver=FlowMap(gamma=1.0),
        grid=partial(_grid, pipe),
        guidance=pipe.guidance if pipe.told else 1.0,
        steps=STEPS,
        clip=None,
    )


def is_consistency(pipe: Pipeline) -> bool:
    """Whether the pipeline samples by the map to the data."""
    return pipe.model.mapping is not None


def _grid(pipe: Pipeline, steps: int, size: Size | None = None) -> tuple[jax.Array, bool]:
    sde: Any = pipe.model.sde
    if isinstance(sde, Tabulated):
        return consistency_times(sde, steps), True
    return pipe.grid(steps + 1, size)[0], True
