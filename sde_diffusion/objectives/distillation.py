"""The objective of a flow map, from any of the losses of flow maps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.model import Model
from sde_diffusion.objectives.consistency import consistency_loss
from sde_diffusion.objectives.continuous import meanflow_loss, scm_loss
from sde_diffusion.objectives.jumps import progressive_loss, shortcut_loss, trajectory_loss
from sde_diffusion.objectives.objective import Metrics, Objective
from sde_diffusion.sdes import Array

FLOW_MAP_LOSSES: dict[str, Callable[..., Array]] = {
    "consistency": consistency_loss,
    "scm": scm_loss,
    "meanflow": meanflow_loss,
    "shortcut": shortcut_loss,
    "progressive": progressive_loss,
    "trajectory": trajectory_loss,
}


def flow_map_objective(
    student: Callable[[Any, Array], Model],
    data: Callable[[Array, Any, Any], tuple[Array, Any]],
    loss: Callable[..., Array],
    *,
    steps: int,
    teacher: Callable[[Any], Model] | None = None,
    by_average: bool = False,
) -> Objective:
    """The objective loss(key, student(params, key), x0, cond=..., teacher=..., ...).

    Args:
        student: student(params, key) is the model that is trained, of `from_flow_map_network`; the
            key is for dropout, and the same for the student and its average.
        data: data(key, batch, frozen) gives x0 [B, *event] and its condition or None.
        loss: one of FLOW_MAP_LOSSES, its options bound by `functools.partial`.
        steps: the number of updates of the run, which schedules go by.
        teacher: teacher(frozen) is the teacher, or None to learn from the data alone.
        by_average: whether targets that the student makes itself are made by its first moving
            average.

    Raises ValueError, when it is called, for a teacher of another SDE.
    """

    def objective(
        params: Any, key: Array, batch: Any, *, frozen: Any, ema: tuple[Any, ...], step: Array
    ) -> tuple[Array, Metrics]:
        key_data, key_dropout, key_loss = jax.random.split(key, 3)
        x0, cond = data(key_data, batch, frozen)
        trained = student(params, key_dropout)
        taught = None if teacher is None else teacher(frozen)
        if taught is not None:
            require_same_sde(trained, taught)
        average = None
        if by_average:
            if not ema:
                raise ValueError("by_average needs a moving average of the parameters")
            average = student(jax.lax.stop_gradient(ema[0]), key_dropout)
        value = loss(
            key_loss,
            trained,
            x0,
            cond=cond,
            teacher=taught,
            average=average,
            progress=jnp.asarray(step, jnp.float32) / steps,
        )
        return value, {}

    return objective


def require_same_sde(student: Model, teacher: Model) -> None:
    """Raise ValueError, which names both, unless the teacher has the student's SDE."""
    known = [jax.tree.leaves(model.sde) for model in (student, teacher)]
    traced = any(isinstance(leaf, jax.core.Tracer) for leaves in known for leaf in leaves)
    same = type(student.sde) is type(teacher.sde)
    if same and not traced:
        same = all(np.array_equal(a, b) for a, b in zip(*known, strict=True))
    if not same:
        raise ValueError(
            f"the teacher's SDE is {teacher.sde!r}, and the student's {student.sde!r}: a flow map "
            "is that of one SDE"
        )
