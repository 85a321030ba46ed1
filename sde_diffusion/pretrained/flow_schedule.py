"""FlowMatchEulerDiscreteScheduler's config as a Flow SDE, with the grid that it stands for.

n evaluations are at the times

    t_i = shifted(u_i),     shifted(u) = s u / (1 + (s - 1) u),     u_1 = 1, ..., u_n evenly spaced,

and the last step goes to the data. The shift s is fixed, or exp(mu) with mu linear in the number of
tokens of the picture (dynamic shift). Euler's step in t is DDIM's on this SDE.

Esser et al. 2024, "Scaling rectified flow transformers for high-resolution image synthesis",
sec. 5.3.2, eq. 23.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import parameterization, samplers, sdes
from sde_diffusion.selection import require_known

LABELS = 1000
FIXED = {
    "num_train_timesteps": (LABELS,),
    "time_shift_type": ("exponential",),
    "shift_terminal": (None,),
    "invert_sigmas": (False,),
    "stochastic_sampling": (False,),
    "use_beta_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_karras_sigmas": (False, None),
}
"""Fields of which these values are supported; where one is absent it has such a value."""


@dataclasses.dataclass(frozen=True)
class FlowSchedule:
    """The times of a Flow SDE for a number of evaluations, and a size of picture.

    shift: s, or None for one that depends on the size.
    base_shift, max_shift: mu for base_tokens and for max_tokens.
    pixels: of a picture along an axis for one token.
    size: height and width in pixels where none are given.
    to_one_step: whether u_n = 1 / n, as Flux has it; otherwise it is 1 / 1000, shifted once more.
    """

    shift: float | None
    base_shift: float
    max_shift: float
    base_tokens: int
    max_tokens: int
    pixels: int
    size: tuple[int, int]
    to_one_step: bool

    sde: ClassVar = sdes.Flow()
    parameterization: ClassVar = parameterization.Flow(LABELS + 1)
    solver: ClassVar = samplers.DDIM()
    clip: ClassVar = None

    def grid(self, steps: int, size: tuple[int, int] | None = None) -> tuple[jax.Array, bool]:
        """The times t_1, ..., t_n, and True, as an evaluation at t_n gives the data."""
        if steps < 2:
            raise ValueError(f"a sample takes at least 2 steps, got {steps}")
        shift = self.shift_for(self.size if size is None else size)
        last = 1.0 / steps if self.to_one_step else 1.0 / LABELS
        if self.shift is not None and not self.to_one_step:
            last = shifted(last, shift)
        times = shifted(np.linspace(1.0, last, steps), shift)
        return jnp.asarray(times, jnp.float32), True

    def shift_for(self, size: tuple[int, int]) -> float:
        """s for a picture of this height and width in pixels."""
        if self.shift is not None:
            return self.shift
        tokens = math.prod(length // self.pixels for length in size)
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return math.exp(self.base_shift + slope * (tokens - self.base_tokens))


def shifted(u: Any, shift: float) -> Any:
    """s u / (1 + (s - 1) u), which has 0 and 1 where u has."""
    return shift * u / (1.0 + (shift - 1.0) * u)


def read_flow_schedule(
    config: Mapping[str, Any],
    *,
    pixels: int,
    size: tuple[int, int],
    to_one_step: bool,
    source: str = "scheduler_config.json",
) -> FlowSchedule:
    """The schedule of a scheduler's config; ValueError, from `source`, for one not supported."""
    known = ("FlowMatchEulerDiscreteScheduler",)
    require_known(f"scheduler of {source}", config.get("_class_name", "none"), known)
    for name, values in FIXED.items():
        if config.get(name, values[0]) not in values:
            raise ValueError(
                f"{source}: {name} = {config[name]!r} is not supported (only {values[0]!r})"
            )
    dynamic = config.get("use_dynamic_shifting", False)
    return FlowSchedule(
        None if dynamic else config.get("shift", 1.0),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        pixels,
        size,
        to_one_step,
    )
