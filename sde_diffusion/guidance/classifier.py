"""Classifier guidance: the gradient of a classifier of noisy samples, added to the score.

    score = score_model + w grad_x log p(c | x_t),   p(c | x_t) = softmax(logits / temperature)_c

Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", sec. 4, after Song et al.
2021, sec. 5. `objectives.classification_loss` trains the classifier.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from sde_diffusion.guidance.combine import (
    Weight,
    checked_weight,
    number,
    same_sde,
    under,
    weight_at,
)
from sde_diffusion.guidance.static import Static
from sde_diffusion.model import Model, as_pytree
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array, expand
from sde_diffusion.sdes.base import require


def classifier_guidance(
    model: Model,
    logits: Callable[[Array, Array], Array],
    weight: Weight = 1.0,
    *,
    temperature: float = 1.0,
    conditional: bool = False,
) -> Model:
    """The model guided to its condition, a class for each sample, by a classifier of noisy samples.

    With w = 1 at temperature 1, an exact classifier makes of an unconditional model the conditional
    one. A sample takes the model's evaluations and one more, the classifier's, whose backward pass
    is not counted.

    Args:
        model: the model; it is called without a condition, or with conditional=True with cond too.
        logits: logits(x [B, *event], t [B]) -> [B, C]; a `jax.tree_util.Partial` of apply and its
            variables keeps these traced.
        weight: w, as for `classifier_free`.
        temperature: above 0; a lower one sharpens the classes.
        conditional: whether the model itself takes cond.

    Raises ValueError for a weight that is not finite or a temperature that is not above 0; and,
    when the model is called, unless cond holds integers [B].
    """
    require(
        lambda temperature: temperature > 0.0,
        "classifier_guidance needs a temperature above 0",
        temperature=temperature,
    )
    sde = same_sde("classifier_guidance", model)
    w = checked_weight("classifier_guidance", weight)
    params = (model, as_pytree(logits), w, number(temperature))
    return Model(sde, Partial(_classifier, Static(conditional)), params)


def _classifier(
    conditional: Static, params: Any, sde: SDE, x: Array, t: Array, cond: Any
) -> Prediction:
    model, logits, weight, temperature = params
    labels = cond
    shaped = hasattr(labels, "shape") and labels.shape == x.shape[:1]
    if not shaped or not jnp.issubdtype(labels.dtype, jnp.integer):
        given = jax.tree.map(jnp.shape, labels)
        raise ValueError(
            f"classifier_guidance: cond must hold one integer class for each of the {len(x)} "
            f"samples, got {'nothing' if labels is None else f'shape {given}'}"
        )
    w = weight_at("classifier_guidance", weight, x, t)
    times = jnp.broadcast_to(t, x.shape[:1])

    def log_probability(x: Array) -> Array:
        log_p = jax.nn.log_softmax(logits(x, times) / temperature, axis=-1)
        return jnp.sum(jnp.take_along_axis(log_p, labels[:, None], axis=-1))

    made = under(model, sde)(x, t, cond if conditional.value else None)
    guided = made.with_score_moved(expand(w, x) * jax.grad(log_probability)(x))
    return dataclasses.replace(guided, evaluations=made.evaluations + 1)
