"""What the losses of flow maps share: targets, distances, and derivatives along the flow.

A student of two times predicts x0(x, t, s), whose line from x ends at F(x, t, s) (see `flow_map`).
Every loss of a flow map regresses that prediction on a target that takes no gradient, and every
one is a function

    loss(key, student, x0, *, cond, teacher, average, progress) -> [B]

    student   a Model of `from_flow_map_network`
    teacher   a Model with the same SDE whose flow is learned, or None to learn from data alone
    average   the student with averaged parameters, for losses whose target is made by it, or None
              for the student itself
    progress  the share of the training that is done, from 0 to 1, for schedules
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion.flow_map import predicted_towards
from sde_diffusion.model import Model
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import Array, Time, expand

Distance = Callable[[Array, Array], Array]


def squared(a: Array, b: Array) -> Array:
    """The mean of (a - b)^2 over a sample's dimensions, [B]."""
    return jnp.mean((a - b) ** 2, axis=_event(a))


def pseudo_huber(scale: float = 0.00054) -> Distance:
    """sqrt(||a - b||^2 + c^2) - c with c = scale sqrt(D), D the size of an event.

    Song & Dhariwal 2024 (iCT), with their scale.
    """

    def distance(a: Array, b: Array) -> Array:
        c = scale * (a.size / len(a)) ** 0.5
        return jnp.sqrt(jnp.sum((a - b) ** 2, axis=_event(a)) + c**2) - c

    return distance


DISTANCES: dict[str, Callable[..., Distance]] = {
    "squared": lambda: squared,
    "pseudo_huber": pseudo_huber,
}


def without_gradient(model: Model) -> Model:
    """The model with parameters that take no gradient."""
    return dataclasses.replace(model, params=jax.lax.stop_gradient(model.params))


def noised(key: Array, model: Model, x0: Array, t: Array) -> tuple[Array, Array]:
    """(x_t, eps), x_t = alpha x0 + sigma eps."""
    eps = jax.random.normal(key, x0.shape, x0.dtype)
    mean, std = model.sde.marginal_prob(x0, t)
    return mean + expand(std, x0) * eps, eps


def velocity(
    model: Model, teacher: Model | None, x: Array, t: Array, cond: Any, x0: Array, eps: Array
) -> Array:
    """dx/dt of the flow at x_t: the teacher's, or that of x0 and eps, whose mean it is."""
    if teacher is not None:
        return jax.lax.stop_gradient(teacher(x, t, cond).velocity)
    sde = model.sde
    return expand(sde.alpha_dot(t), x) * x0 + expand(sde.sigma_dot(t), x) * eps


def along_flow(
    student: Model,
    x: Array,
    t: Array,
    s: Array,
    cond: Any,
    dx: Array,
    of: Callable[[Prediction], Any],
) -> tuple[Prediction, Any]:
    """(prediction towards s, d/dt of `of(prediction)` along (dx, dt) = (dx, 1)) at x_t.

    The derivative takes no gradient; the prediction does. Both come from one pass in forward mode.
    """

    def function(x: Array, t: Array) -> tuple[Any, Prediction]:
        prediction = predicted_towards(student, x, t, s, cond)
        return of(prediction), prediction

    _, derivative, prediction = jax.jvp(function, (x, t), (dx, jnp.ones_like(t)), has_aux=True)
    return prediction, jax.lax.stop_gradient(derivative)


def line_through(x: Array, t: Array, mapped: Array, s: Time, model: Model) -> Prediction:
    """The prediction at x_t whose line ends at `mapped` at time s, which must differ from t.

    It takes no gradient.
    """
    sde = model.sde
    ratio = sde.sigma(s) / sde.sigma(t)
    of_x0 = sde.alpha(s) - sde.alpha(t) * ratio
    x0 = (mapped - expand(ratio, x) * x) / expand(of_x0, x)
    return Prediction("x0", jax.lax.stop_gradient(x0), x, t, sde)


def require_teacher(loss: str, teacher: Model | None) -> Model:
    """The teacher; ValueError that names the loss without one."""
    if teacher is None:
        raise ValueError(f"{loss} needs a teacher, and none is given")
    return teacher


def _event(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))
