"""What methods share that guide a model by log p(y | x_t).

By Bayes' rule score(x_t | y) = score(x_t) + g with g = grad log p(y | x_t), and by Tweedie's
formula

    E[x_0 | x_t, y] = E[x_0 | x_t] + sigma^2 / alpha g                                        (1)
    Cov[x_0 | x_t] = sigma^2 / alpha J,      J = d E[x_0 | x_t] / d x_t                       (2)

The methods differ in how they approximate p(y | x_t) = E[p(y | x_0) | x_t].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.inverse.measurement import measured
from sde_diffusion.inverse.operator import Operator, require_operator
from sde_diffusion.model import LEAST_SIGNAL, Model, require_model
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import Array, expand


class Seen(NamedTuple):
    """A prediction at x_t and how far its x0 is from the measurement.

    `x0` is E[x_0 | x_t], `pull(v)` is J^T v for v [B, *event], `residual` is y - A(x0) and
    `variance` [B] that of the noise in y.
    """

    prediction: Prediction
    x0: Array
    pull: Callable[[Array], Array]
    operator: Operator
    residual: Array
    variance: Array

    @property
    def spread(self) -> Array:
        """sigma^2 / alpha of (2), [B]; 0 where float32 cannot tell alpha from 0."""
        alpha, sigma = _levels(self.prediction)
        signal = alpha > LEAST_SIGNAL * sigma
        ratio = jnp.where(signal, sigma**2 / jnp.where(signal, alpha, 1.0), 0.0)
        return jnp.broadcast_to(ratio, self.x0.shape[:1])

    def covariance(self, v: Array) -> Array:
        """Cov[x_0 | x_t] v = sigma^2 / alpha J^T v, by (2), in one backward pass."""
        return expand(self.spread, v) * self.pull(v)

    def guided(self, back: Array) -> Prediction:
        """The prediction given y for a gradient g = J^T back, by (1), in one backward pass.

        Where alpha is 0, x_t says nothing about x_0, (1) is 0 / 0, and the prediction stays as it
        is.
        """
        prediction, g = self.prediction, self.pull(back)
        alpha, sigma = _levels(prediction)
        # In v = alpha eps - sigma x0, with eps changed by -sigma g and x0 by sigma^2 / alpha g, no
        # view loses digits, neither at small sigma nor at small alpha.
        signal = alpha > LEAST_SIGNAL * sigma
        factor = sigma * (alpha**2 + sigma**2) / jnp.where(signal, alpha, 1.0)
        v = prediction.v - expand(jnp.where(signal, factor, 0.0), g) * g
        return Prediction(
            "v", v, prediction.x, prediction.t, prediction.sde, prediction.evaluations
        )


def see(
    model: Model,
    operator: Operator | None,
    x: Array,
    t: Array,
    cond: Any,
    linear_for: str | None = None,
) -> Seen:
    """The model's prediction at x_t beside the measurement `cond`: one forward pass."""
    operator, measurement = measured(operator, cond, x, linear_for)

    def predict(x: Array) -> tuple[Array, Prediction]:
        prediction = model(x, t, measurement.cond)
        return prediction.x0, prediction

    x0, pull, prediction = jax.vjp(predict, x, has_aux=True)
    residual = measurement.y - operator(x0)
    return Seen(prediction, x0, lambda v: pull(v)[0], operator, residual, measurement.std**2)


def require_fit(model: Any, operator: Any, linear_for: str | None = None) -> None:
    """Raise TypeError or ValueError, in one line, for what can be checked before there is an x."""
    require_model(model)
    if operator is not None:
        require_operator(operator)
        if linear_for is not None:
            operator.require_linear(linear_for)


@jax.tree_util.register_static
class Count(int):
    """A number of iterations, as a part of a model's structure rather than one of its leaves."""

    @classmethod
    def of(cls, method: str, name: str, given: Any) -> "Count":
        """The count; ValueError unless it is a whole number of at least 1."""
        if not isinstance(given, int | np.integer) or given < 1:
            raise ValueError(f"{method} needs {name} >= 1, got {given!r}")
        return cls(given)


def _levels(prediction: Prediction) -> tuple[Array, Array]:
    return prediction.alpha, prediction.sigma
