"""Flow maps in a config: which loss trains one, by what teacher, and which network gives it.

`config.flow_map.name` is "none", or one of FLOW_MAPS, whose fields are plain values; a grid or a
solver is written as on the command line, "karras(rho=3)". The network is then told a second time
beside its own. `config.teacher.path` is the folder of the run whose flow is learned; without one
the losses that can learn from the data alone do. With `config.teacher.guidance` = (low, high) the
teacher is guided with weights from that range, and the network is told the weight; with one number
the teacher is guided by that weight always, and nothing is told. MeanFlow and
shortcut models take `loss.weighting` as well, and MeanFlow `loss.times`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sde_diffusion import grids, notation, objectives, samplers, selection
from sde_diffusion.model import Model
from sde_diffusion.networks import TOWARDS
from sde_diffusion.objectives import GUIDANCE
from sde_diffusion.objectives.consistency import SCHEDULES
from sde_diffusion.objectives.flow_map_loss import pseudo_huber
from sde_diffusion.sdes import Array


class Teacher(NamedTuple):
    """A trained model: model(params), and its parameters."""

    model: Callable[[Any], Model]
    params: Any


class FlowMapLoss(NamedTuple):
    """A loss of a flow map, and what it needs.

    by_average: whether its own targets are made by the moving average of the parameters.
    weighted, timed: whether it takes `weighting`, and `times`.
    """

    loss: Callable[..., Array]
    by_average: bool = False
    weighted: bool = False
    timed: bool = False


def none() -> None:
    """No flow map: the loss is config.loss."""


def consistency(
    schedule: str = "ect",
    solver: str = "heun",
    huber: float = 0.00054,
    by_average: bool = False,
) -> FlowMapLoss:
    """Consistency training, or distillation where there is a teacher."""
    name, fields = notation.read("schedule", schedule)
    return FlowMapLoss(
        partial(
            objectives.consistency_loss,
            schedule=selection.build("schedule", name, SCHEDULES, fields),
            solver=_solver(solver),
            distance=pseudo_huber(huber),
        ),
        by_average,
    )


def scm(
    mean: float = -1.0, std: float = 1.4, sigma_data: float = 0.5, warmup: float = 0.1
) -> FlowMapLoss:
    """Continuous-time consistency models."""
    options: dict[str, Any] = {"mean": mean, "std": std, "sigma_data": sigma_data, "warmup": warmup}
    return FlowMapLoss(partial(objectives.scm_loss, **options))


def meanflow(
    apart: float = 0.25, power: float = 1.0, floor: float = 0.01, improved: bool = True
) -> FlowMapLoss:
    """MeanFlow, improved or not."""
    options: dict[str, Any] = {"apart": apart, "power": power, "floor": floor}
    loss = partial(objectives.meanflow_loss, improved=improved, **options)
    return FlowMapLoss(loss, weighted=True, timed=True)


def shortcut(
    steps: int = 128, grid: str = "uniform", bootstrap: float = 0.25, by_average: bool = True
) -> FlowMapLoss:
    """Shortcut models."""
    loss = partial(objectives.shortcut_loss, steps=steps, grid=_grid(grid), bootstrap=bootstrap)
    return FlowMapLoss(loss, by_average, weighted=True)


def progressive(steps: int = 8, grid: str = "uniform") -> FlowMapLoss:
    """One round of progressive distillation, to so many steps."""
    return FlowMapLoss(partial(objectives.progressive_loss, steps=steps, grid=_grid(grid)))


def trajectory(
    steps: int = 16,
    grid: str = "karras",
    solver: str = "dpmpp_2m",
    pairs: int = 4,
    from_start: float = 0.5,
    to_end: float = 0.6,
    huber: float = 0.03,
) -> FlowMapLoss:
    """Regression on the teacher's trajectories."""
    return FlowMapLoss(
        partial(
            objectives.trajectory_loss,
            steps=steps,
            grid=_grid(grid),
            solver=_solver(solver),
            pairs=pairs,
            from_start=from_start,
            to_end=to_end,
            distance=pseudo_huber(huber),
        )
    )


FLOW_MAPS: dict[str, Callable[..., FlowMapLoss | None]] = {
    "none": none,
    "consistency": consistency,
    "scm": scm,
    "meanflow": meanflow,
    "shortcut": shortcut,
    "progressive": progressive,
    "trajectory": trajectory,
}
# Without a teacher these have nothing to learn from.
NEED_TEACHER = ("progressive", "trajectory")


def is_flow_map(config: ConfigDict) -> bool:
    """Whether the network gives a flow map."""
    return bool(config.flow_map.name != "none")


def loss(config: ConfigDict) -> FlowMapLoss:
    """The loss of config.flow_map; ValueError for a field that does not fit."""
    group = config.flow_map
    fields = {key: value for key, value in group.items() if key != "name"}
    made = selection.build("flow map", group.name, FLOW_MAPS, fields)
    assert made is not None
    return made


def numbers(config: ConfigDict) -> tuple[str, ...]:
    """The numbers that the network is told beside its conditions."""
    given = tuple(config.network.get("numbers", ()))
    needed = (TOWARDS,) if is_flow_map(config) else ()
    if weights(config) is not None:
        needed = (*needed, GUIDANCE)
    return (*given, *(name for name in needed if name not in given))


def weights(config: ConfigDict) -> tuple[float, float] | None:
    """The range of the weights with which the teacher is guided, or None; ValueError if it is none.

    The student is told the weight.
    """
    given = config.teacher.guidance
    if given is None or fixed_weight(config) is not None:
        return None
    ends = given if isinstance(given, tuple | list) else ()
    if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends):
        raise ValueError(
            f"config.teacher.guidance must be None, a number or (low, high), got {given!r}"
        )
    low, high = map(float, ends)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"config.teacher.guidance must be (low, high), low < high, got {given!r}")
    return low, high


def fixed_weight(config: ConfigDict) -> float | None:
    """The one weight with which the teacher is guided; None for a range, or none of its own."""
    given = config.teacher.guidance
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        return None
    return float(given)


def require_weight(config: ConfigDict) -> float:
    """The weight that a student of a guided teacher is told: config.sampling.guidance.weight.

    Raises ValueError for one that its teacher was never guided with, and for an interval.
    """
    group, known = config.sampling.guidance, weights(config)
    assert known is not None
    low, high = known
    if not (isinstance(group.weight, int | float) and low <= group.weight <= high):
        raise ValueError(
            f"config.sampling.guidance.weight (--guidance) is {group.weight!r}, and this network "
            f"was trained for weights from {low:g} to {high:g}"
        )
    if group.interval is not None:
        raise ValueError(
            "--guidance-interval: a flow map is guided at all levels, as its teacher was"
        )
    return float(group.weight)


def require_sampling(config: ConfigDict) -> None:
    """Raise ValueError where sampling asks for steps or a weight that the student does not know."""
    if weights(config) is not None:
        require_weight(config)
    most, asked = config.flow_map.get("steps"), config.sampling.steps
    if config.sampling.solver.name == "flow_map" and most is not None and asked > most:
        raise ValueError(
            f"config.sampling.steps (--steps) is {asked}, and this network was trained on a grid "
            f"of {most} steps (config.flow_map.steps)"
        )


def _grid(text: str) -> Callable[..., Array]:
    name, fields = notation.read("grid", text)
    return grids.with_fields(name, **fields)


def _solver(text: str) -> samplers.Solver:
    name, fields = notation.read("solver", text)
    return samplers.named(name, **fields)
