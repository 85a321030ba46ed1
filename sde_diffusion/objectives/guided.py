"""Guided distillation: a student that gives in one evaluation what guidance gives in two.

The weight of the guidance is drawn anew for each sample and told to the student as the number
"guidance" beside its condition; the teacher is guided with it. So one student serves every weight.
Meng et al. 2023 (On distillation of guided diffusion models); with a consistency loss it is latent
consistency distillation (Luo et al. 2023, LCM).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from sde_diffusion.model import Model
from sde_diffusion.objectives.flow_map_loss import require_teacher
from sde_diffusion.prediction import Mapped, Prediction
from sde_diffusion.sdes import SDE, Array

GUIDANCE = "guidance"
"""The name of the number that is the weight of the guidance."""

# guide(model, weight [B]) -> the guided model
Guide = Callable[[Model, Array], Model]


def guided(
    loss: Callable[..., Array], guide: Guide, low: float = 1.0, high: float = 4.0
) -> Callable[..., Array]:
    """A loss of a flow map whose teacher is guided by weights uniform between `low` and `high`.

    Args:
        loss: one of the losses of flow maps that take a teacher.
        guide: guide(teacher, weight [B]) is the guided teacher, such as
            `lambda model, weight: classifier_free(model, weight, null=10)`.
        low, high: the range of the weights.

    The student's condition is a dict with the teacher's condition (an array alone is its "label")
    and the weight GUIDANCE. Raises ValueError unless low < high, and, when the loss is called,
    without a teacher or a condition.
    """
    if not low < high:
        raise ValueError(f"guided needs low < high, got {low} and {high}")

    def guided_loss(
        key: Array, student: Model, x0: Array, *, cond: Any = None, teacher: Any = None, **rest: Any
    ) -> Array:
        teacher = require_teacher("guided", teacher)
        if cond is None:
            raise ValueError("guided distillation needs a condition to guide to, and there is none")
        key_w, key = jax.random.split(key)
        weight = jax.random.uniform(key_w, x0.shape[:1], minval=low, maxval=high)
        told = _told(cond, weight)
        return loss(key, student, x0, cond=told, teacher=by_weight(teacher, guide), **rest)

    return guided_loss


def by_weight(model: Model, guide: Guide) -> Model:
    """The model guided by the weight that stands in its condition: cond[GUIDANCE], [B]."""
    return Model(model.sde, Partial(_by_weight, Partial(guide)), model)


def told_weight(model: Model, weight: Array | float) -> Model:
    """The model of a student that is told this weight, so its condition is again the teacher's."""
    mapping = None if model.mapping is None else Partial(_mapped_with_weight)
    return Model(model.sde, Partial(_with_weight), (model, weight), mapping)


def _with_weight(params: Any, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
    model, weight = params
    model = dataclasses.replace(model, sde=sde)
    return model(x, t, _told(cond, jnp.broadcast_to(weight, x.shape[:1])))


def _mapped_with_weight(params: Any, sde: SDE, x: Array, t: Array, s: Array, cond: Any) -> Mapped:
    model, weight = params
    model = dataclasses.replace(model, sde=sde)
    return model.flow_map(x, t, s, _told(cond, jnp.broadcast_to(weight, x.shape[:1])))


def _told(cond: Any, weight: Array) -> dict[str, Any]:
    named = {} if cond is None else cond if isinstance(cond, Mapping) else {"label": cond}
    return {**named, GUIDANCE: weight}


def _by_weight(guide: Guide, model: Model, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
    rest = {name: value for name, value in cond.items() if name != GUIDANCE}
    told = rest["label"] if rest.keys() == {"label"} else rest
    return guide(model, cond[GUIDANCE])(x, t, told)
