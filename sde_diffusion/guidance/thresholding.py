"""Thresholding: the predicted x0 kept within the range of the data.

Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep Language
Understanding" (Imagen), sec. 2.3.
"""

from typing import Any

import jax.numpy as jnp

from sde_diffusion.guidance.combine import number, same_sde, under
from sde_diffusion.model import Model
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array
from sde_diffusion.sdes.base import require


def static_threshold(model: Model, low: float = -1.0, high: float = 1.0) -> Model:
    """The model with its x0 clipped to [low, high].

    Where nothing is clipped the prediction is unchanged to the last digit. Raises ValueError unless
    low < high.
    """
    require(lambda low, high: low < high, "static_threshold needs low < high", low=low, high=high)
    return Model(same_sde("static_threshold", model), _static, (model, number(low), number(high)))


def dynamic_threshold(model: Model, percentile: float = 0.995, bound: float = 1.0) -> Model:
    """The model with x0 scaled into [-bound, bound] where guidance drove it beyond.

        s = max(bound, the percentile of |x0| over a sample's values)
        x0 <- bound clip(x0, -s, s) / s

    Raises ValueError unless 0 < percentile <= 1 and bound > 0.
    """
    require(
        lambda percentile: 0 < percentile <= 1,
        "dynamic_threshold needs a percentile above 0, up to 1",
        percentile=percentile,
    )
    require(lambda bound: bound > 0, "dynamic_threshold needs a bound above 0", bound=bound)
    params = (model, number(percentile), number(bound))
    return Model(same_sde("dynamic_threshold", model), _dynamic, params)


def _static(params: Any, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
    model, low, high = params
    made = under(model, sde)(x, t, cond)
    x0 = made.x0
    return made.with_x0_moved(jnp.clip(x0, low, high) - x0)


def _dynamic(params: Any, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
    model, percentile, bound = params
    made = under(model, sde)(x, t, cond)
    x0 = made.x0
    size = jnp.quantile(jnp.abs(x0).reshape(len(x0), -1), percentile, axis=1)
    size = jnp.maximum(size, bound).reshape((-1,) + (1,) * (x0.ndim - 1))
    return made.with_x0_moved(bound / size * jnp.clip(x0, -size, size) - x0)
