"""Classifier-free guidance, CFG++ and autoguidance: a positive and a negative prediction.

    score = score_negative + w (score_positive - score_negative)

If the positive branch is conditional and the negative one is not, this is the score of
p_t(x) p_t(c | x)^w. Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", whose weight is
w - 1.
"""

from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from sde_diffusion.guidance.combine import (
    Weight,
    branches,
    checked_weight,
    null_like,
    same_sde,
    under,
    weight_at,
)
from sde_diffusion.guidance.rules import Linear, Rule
from sde_diffusion.guidance.static import Static
from sde_diffusion.model import Model
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array
from sde_diffusion.sdes.base import is_known

LINEAR = Linear()


def classifier_free(
    model: Model, weight: Weight, *, null: Any, batched: bool = True, rule: Rule = LINEAR
) -> Model:
    """The model guided to its condition: null + w (conditional - null), in any kind of prediction.

    w = 1 is the conditional model, w = 0 the one without a condition. A sample takes two
    evaluations, whether in one call of twice the batch or, with batched=False, in two calls of
    less memory.

    Args:
        model: a model of cond, trained with its conditions dropped.
        weight: w, a number, an array [B] with one for each sample, or a function of the time t,
            [] or [B]. Another number or array compiles nothing.
        null: what stands for no condition: a pytree like cond, whose leaves are numbers or arrays
            [...] without the batch. None calls the model without a condition, with batched=False.
        batched: whether one call evaluates both.
        rule: how the two are combined: `Linear()`, `Rescaled()` or `Projected()`.

    Raises:
        ValueError: for a weight that is not finite, and, when the model is called, for a null of
            another structure than cond, or a missing cond.

        guided = classifier_free(model, 2.0, null=10)          # 10 classes, and 10 for none
        sample(key, guided, shape, solver=DDIM(), grid=grid, cond=labels)
    """
    same_sde("classifier_free", model)
    if null is None and batched:
        raise ValueError(
            "classifier_free: null=None calls the model without a condition, which cannot share a "
            "call: set batched=False"
        )
    params = (model, checked_weight("classifier_free", weight), null, rule)
    return Model(model.sde, Partial(_classifier_free, Static(bool(batched))), params)


def _classifier_free(
    batched: Static, params: Any, sde: SDE, x: Array, t: Array, cond: Any
) -> Prediction:
    model, weight, null, rule = params
    w = weight_at("classifier_free", weight, x, t)
    without = None if null is None else null_like("classifier_free", null, cond)
    negative, positive = branches(under(model, sde), x, t, [without, cond], batched.value)
    return rule(positive, negative, w, not callable(weight))


def cfg_plus_plus(
    model: Model, weight: Weight, *, grid: Array, null: Any, batched: bool = True
) -> Model:
    """CFG++: DDIM steps to the guided x0 that add the noise of the branch without a condition.

        x_s = alpha_s x0_guided + sigma_s eps_null,    x0_guided with the weight, from 0 to 1

    For a step of h in lambda this equals DDIM with the guidance weight w / (1 - exp(-h)), and so it
    is defined here, for every solver on the `grid` [n + 1]: h is the length of the step from each
    time. The evaluation that denoises after the last step has weight w. The shorter the steps, the
    stronger is the guidance. Chung et al. 2024, "CFG++: Manifold-constrained Classifier Free
    Guidance for Diffusion Models".

    Raises ValueError for a grid that does not decrease, and as `classifier_free` does.
    """
    checked = checked_weight("cfg_plus_plus", weight)
    grid = jnp.asarray(grid)
    if (
        grid.ndim != 1
        or len(grid) < 2
        or (is_known(grid) and not bool(jnp.all(grid[1:] < grid[:-1])))
    ):
        raise ValueError(f"cfg_plus_plus: grid must hold decreasing times, got {grid}")
    by_step = Partial(_by_step, same_sde("cfg_plus_plus", model), grid, checked)
    return classifier_free(model, by_step, null=null, batched=batched)


def _by_step(sde: SDE, grid: Array, weight: Weight, t: Array) -> Array:
    """w / (1 - exp(-h)), h the length in lambda of the step from t; w at the end of the grid."""
    # A time counts as reached up to the rounding of a time that was computed.
    i = jnp.sum(grid >= jnp.asarray(t)[..., None] * (1.0 - 1e-6), axis=-1)
    h = sde.log_snr_rise(t, grid[jnp.minimum(i, len(grid) - 1)])
    inside = (i < len(grid)) & (h > 0.0)
    share = -jnp.expm1(-jnp.where(inside, h, 1.0))
    return (weight(t) if callable(weight) else weight) / jnp.where(inside, share, 1.0)


def autoguidance(model: Model, worse: Model, weight: Weight, *, rule: Rule = LINEAR) -> Model:
    """A model guided away from a worse one: worse + w (model - worse); w = 1 is the model.

    The worse model is, for example, smaller or trained for a shorter time, with the same data and
    condition; both are called with cond. Each sample takes the evaluations of both. The weight is
    as for `classifier_free`. Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of
    Itself".

    Raises ValueError where the SDEs differ or the weight is not finite.
    """
    sde = same_sde("autoguidance", model, worse)
    params = (model, worse, checked_weight("autoguidance", weight), rule)
    return Model(sde, _autoguidance, params)


def _autoguidance(params: Any, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
    model, worse, weight, rule = params
    w = weight_at("autoguidance", weight, x, t)
    positive, negative = (under(each, sde)(x, t, cond) for each in (model, worse))
    return rule(positive, negative, w, not callable(weight))
