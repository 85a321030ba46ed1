"""Training: state, step, EMA, checkpoints and the loop; independent of SDE, network and config."""

from sde_diffusion.compilation_cache import (
    enable_compilation_cache,
    without_compilation_cache,
)
from sde_diffusion.training.checkpoint import (
    CheckpointMismatch,
    DamagedCheckpoint,
    Restored,
)
from sde_diffusion.training.compiler_options import (
    check_compiler_options,
    read_compiler_options,
)
from sde_diffusion.training.disk import write_whole
from sde_diffusion.training.finite import NonFiniteLoss
from sde_diffusion.training.history import plot_loss
from sde_diffusion.training.loop import Every, Outcome, for_devices, train
from sde_diffusion.training.optim import make_optimizer, make_schedule
from sde_diffusion.training.parameters import Parameters, restore_params
from sde_diffusion.training.recipe import Recipe, Run, StepOptions
from sde_diffusion.training.state import TrainState, abstract_state, init_state
from sde_diffusion.training.step import make_step, step_on_mesh

__all__ = [
    "CheckpointMismatch",
    "DamagedCheckpoint",
    "Every",
    "NonFiniteLoss",
    "Outcome",
    "Parameters",
    "Recipe",
    "Restored",
    "Run",
    "StepOptions",
    "TrainState",
    "abstract_state",
    "check_compiler_options",
    "enable_compilation_cache",
    "for_devices",
    "init_state",
    "make_optimizer",
    "make_schedule",
    "make_step",
    "plot_loss",
    "read_compiler_options",
    "restore_params",
    "step_on_mesh",
    "train",
    "without_compilation_cache",
    "write_whole",
]
