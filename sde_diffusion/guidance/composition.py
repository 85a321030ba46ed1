"""Several conditions or models at once: sums and negations, products and powers of densities.

    compose    p(x) prod_i p(c_i | x)^w_i                score + sum_i w_i (score_i - score)
    product    prod_i p_i(x)^b_i                         sum_i b_i score_i
    power      p(x)^b, colder for b > 1                  b score

Each is the score at t = 0. At t > 0 the score of the noised target differs, so a plain sampler is
biased; `FeynmanKac` corrects it. Liu et al. 2022, "Compositional Visual Generation with Composable
Diffusion Models"; Du et al. 2023, "Reduce, Reuse, Recycle"; Skreta et al. 2025.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jax.tree_util import Partial

from sde_diffusion.guidance.combine import (
    Weight,
    branches,
    checked_weight,
    extrapolated,
    multiplied,
    null_like,
    same_sde,
    under,
    weight_at,
)
from sde_diffusion.guidance.static import Static
from sde_diffusion.model import Model, require_signal
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array


def compose(
    model: Model, weights: Mapping[str, Weight], *, null: Any, batched: bool = True
) -> Model:
    """The model under several conditions, each with its own weight; a negative one negates.

    `cond` is a mapping with the same names as `weights`, and each entry is a condition as the model
    takes it. K conditions take K + 1 evaluations, in one call or, with batched=False, in K + 1.
    `null` and the weights are as for `classifier_free`, which this is for one condition.

        guided = compose(model, {"is": 2.0, "is not": -1.0}, null=10)
        sample(key, guided, shape, ..., cond={"is": labels, "is not": others})

    Raises ValueError for a weight that is not finite, and, when the model is called, where cond has
    other names or a condition another structure than null.
    """
    if not weights:
        raise ValueError("compose: weights must name at least one condition")
    checked = {
        name: checked_weight("compose", weight, f"weight of {name!r}")
        for name, weight in weights.items()
    }
    sde = same_sde("compose", model)
    return Model(sde, Partial(_compose, Static(bool(batched))), (model, checked, null))


def _compose(batched: Static, params: Any, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
    model, weights, null = params
    given = sorted(cond) if isinstance(cond, Mapping) else []
    if given != sorted(weights):
        told = ", ".join(given) or "none"
        raise ValueError(
            f"compose: cond must name the conditions {', '.join(sorted(weights))}, got {told}"
        )
    names = sorted(weights)
    conds = [null_like("compose", null, cond[names[0]]), *(cond[name] for name in names)]
    for name in names[1:]:
        null_like("compose", null, cond[name])
    base, *others = branches(under(model, sde), x, t, conds, batched.value)
    at = [weight_at("compose", weights[name], x, t) for name in names]
    fixed = not any(callable(weight) for weight in weights.values())
    return extrapolated(base, list(zip(at, others, strict=True)), fixed)


def product(models: Sequence[Model], powers: Sequence[Weight] | None = None) -> Model:
    """The product of the models' densities, each to its power, by default 1.

    All are called with the same cond, and each counts its evaluations. Raises ValueError where the
    SDEs differ, the powers do not fit, or alpha = 0 at t_max, where eps, in which the scores are
    added, says nothing about x_0.
    """
    powers = [1.0] * len(models) if powers is None else powers
    if not models or len(powers) != len(models):
        raise ValueError(f"product: got {len(models)} models and {len(powers)} powers")
    checked = tuple(checked_weight("product", power, "power") for power in powers)
    sde = same_sde("product", *models)
    require_signal(sde, "eps", "product")
    return Model(sde, _product, (tuple(models), checked))


def _product(params: Any, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
    models, powers = params
    parts = [
        (weight_at("product", power, x, t), under(model, sde)(x, t, cond))
        for model, power in zip(models, powers, strict=True)
    ]
    return multiplied(parts, not any(callable(power) for power in powers))


def power(model: Model, exponent: Weight) -> Model:
    """The density of the model to a power: colder, and of fewer modes, for an exponent above 1.

    Errors are those of `product`.
    """
    return product([model], [exponent])
