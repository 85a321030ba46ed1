"""Guidance on an interval of noise levels: the guided model inside it, another one outside.

Kynkaanniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and Distribution
Quality in Diffusion Models".
"""

from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion.guidance.combine import number, same_sde, under
from sde_diffusion.model import Model
from sde_diffusion.prediction import NO_CORRECTION, Prediction
from sde_diffusion.sdes import SDE, Array, expand
from sde_diffusion.sdes.base import require


def interval(guided: Model, outside: Model, low: float, high: float) -> Model:
    """`guided` where low <= sigma(t) / alpha(t) <= high, and the model `outside` elsewhere.

    Fixed-grid solvers ask for one time for all samples. Then only one of the two is computed, and
    `evaluations` counts that one. If each sample has its own time, as with adaptive solvers and in
    training, both are computed as long as samples are on both sides; a sample still counts only
    what it uses. A `jax.vmap` over times turns the choice into a selection, which computes both.

        interval(classifier_free(model, 2.0, null=10), model, 0.3, 2.0)

    Raises ValueError unless 0 <= low < high, and where the SDEs differ. The limits are traced.
    """
    require(lambda low, high: 0 <= low < high, "interval needs 0 <= low < high", low=low, high=high)
    sde = same_sde("interval", guided, outside)
    return Model(sde, _interval, (guided, outside, number(low), number(high)))


def _interval(params: Any, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
    guided, outside, low, high = params
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    # Products rather than the ratio, which is infinite at alpha = 0: outside, for a finite `high`.
    inside = (sigma >= low * alpha) & (sigma <= high * alpha)
    here, there = under(guided, sde), under(outside, sde)

    shapes = [jax.eval_shape(lambda each=each: each(x, t, cond)) for each in (here, there)]
    kind = shapes[1].kind
    dtype = jnp.result_type(*(shape.value.dtype for shape in shapes))
    counts = jnp.broadcast_shapes(inside.shape, *(jnp.shape(s.evaluations) for s in shapes))

    def told(model: Model) -> tuple[Array, Array]:
        made = model(x, t, cond)
        count = jnp.broadcast_to(jnp.asarray(made.evaluations, jnp.int32), counts)
        return made.view(kind).astype(dtype), count

    def both() -> tuple[Array, Array]:
        (value, count), (value_there, count_there) = told(here), told(there)
        return (
            jnp.where(expand(inside, x), value, value_there),
            jnp.where(inside, count, count_there),
        )

    if inside.ndim == 0:
        value, count = jax.lax.cond(inside, lambda: told(here), lambda: told(there))
    else:
        case = jnp.where(jnp.all(inside), 2, jnp.where(jnp.any(inside), 1, 0))
        value, count = jax.lax.switch(case, [lambda: told(there), both, lambda: told(here)])
    return Prediction(kind, value, x, t, sde, count, NO_CORRECTION)
