"""The description of a run: the Recipe (what is trained and how) and the Run (how long)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import optax

from sde_diffusion import noise
from sde_diffusion.objectives.objective import Objective
from sde_diffusion.training.ema import check_rates

InitFn = Callable[[jax.Array], Any]


@dataclass(frozen=True)
class StepOptions:
    """How an update is computed. None of these changes the result by more than rounding.

    accumulate: the gradient is averaged over this many parts of the batch, one after another, so
        that activations take that many times less memory.
    gather_dtype: the dtype in which parameters that are split over the mesh are gathered; bfloat16
        halves the traffic of float32. The result is the same if the network computes in this dtype.
    compiler_options: options of XLA's compiler.

    Raises ValueError for accumulate below 1.
    """

    accumulate: int = 1
    gather_dtype: str = "float32"
    compiler_options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"accumulate: {self.accumulate} is not at least 1")


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how.

    init_params: init_params(key) returns the parameters.
    objective: the function that is minimized, see `objectives.Objective`.
    optimizer: an optax optimizer.
    ema_rates: one moving average of the parameters is kept for each rate.
    frozen: a pytree of arrays that the objective uses and that is not trained, or None. On a mesh
        it is split like the parameters; it is never donated.
    learning_rate: update -> learning rate, for the records; or None.
    options: how an update is computed.

    Raises ValueError for a rate outside [0, 1).
    """

    init_params: InitFn
    objective: Objective
    optimizer: optax.GradientTransformation
    ema_rates: tuple[float, ...] = (0.999,)
    frozen: Any = None
    learning_rate: optax.Schedule | None = None
    options: StepOptions = StepOptions()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ema_rates", check_rates(self.ema_rates))


@dataclass(frozen=True)
class Run:
    """How long a run is, and when it writes records and checkpoints.

    steps: the total number of updates.
    seed: the seed of the initial parameters and of all noise, in [0, 2^64).
    steps_per_call: updates made by one call of the compiled step.
    log_every: steps from one record to the next.
    checkpoint_every: steps from one checkpoint to the next; the last step is always saved.
    keep: how many of the newest checkpoints are kept.
    keep_every: checkpoints whose step is a multiple of this are kept too.
    keep_best: this many checkpoints with the lowest loss are kept too. The loss of a checkpoint is
        the mean over the steps since the previous checkpoint.

    Raises ValueError for a number out of its range.
    """

    steps: int
    seed: int = 0
    steps_per_call: int = 1
    log_every: int = 100
    checkpoint_every: int = 1000
    keep: int = 3
    keep_every: int | None = None
    keep_best: int | None = None

    def __post_init__(self) -> None:
        noise.check_seed(self.seed)
        for name, value in vars(self).items():
            if name != "seed" and value is not None and value < 1:
                raise ValueError(f"{name}: {value} is not at least 1")
