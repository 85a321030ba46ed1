"""Guidance away from a condition of each sample's own, such as a negative prompt.

    score = score_negative + w (score_positive - score_negative)

which is classifier-free guidance with another condition in the place of none. Ho & Salimans 2022.
"""

from collections.abc import Mapping
from typing import Any

from jax.tree_util import Partial

from sde_diffusion.guidance.classifier_free import LINEAR
from sde_diffusion.guidance.combine import (
    Weight,
    branches,
    checked_weight,
    same_sde,
    under,
    weight_at,
)
from sde_diffusion.guidance.rules import Rule
from sde_diffusion.guidance.static import Static
from sde_diffusion.model import Model
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array

BRANCHES = ("negative", "positive")


def away_from(model: Model, weight: Weight, *, batched: bool = True, rule: Rule = LINEAR) -> Model:
    """The model guided from a negative to a positive condition: negative + w (positive - negative).

    Its cond is {"negative": ..., "positive": ...}, each a condition as the model takes it, with an
    entry for each sample. The weight, `batched` and `rule` are as for `classifier_free`.

    Raises ValueError for a weight that is not finite, and, when the model is called, for another
    cond.

        guided = away_from(model, 7.5)
        sample(key, guided, shape, ..., cond={"negative": without, "positive": text})
    """
    same_sde("away_from", model)
    params = (model, checked_weight("away_from", weight), rule)
    return Model(model.sde, Partial(_away_from, Static(bool(batched))), params)


def _away_from(batched: Static, params: Any, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
    model, weight, rule = params
    given = sorted(cond) if isinstance(cond, Mapping) else []
    if given != sorted(BRANCHES):
        told = ", ".join(map(str, given)) or "none"
        raise ValueError(f"away_from: cond must be a dict of negative and positive, got {told}")
    w = weight_at("away_from", weight, x, t)
    conds = [cond[branch] for branch in BRANCHES]
    negative, positive = branches(under(model, sde), x, t, conds, batched.value)
    return rule(positive, negative, w, not callable(weight))
