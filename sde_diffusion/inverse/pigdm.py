"""PiGDM: x_0 given x_t taken for an isotropic Gaussian around the denoised sample."""

from typing import Any

import jax.numpy as jnp

from sde_diffusion.inverse.linear_algebra import weighted_back
from sde_diffusion.inverse.operator import Operator
from sde_diffusion.inverse.tweedie import Count, require_fit, see
from sde_diffusion.model import Model
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array
from sde_diffusion.sdes.base import require


def pigdm(
    model: Model,
    operator: Operator | None = None,
    *,
    prior_variance: Array | float = 1.0,
    iterations: int = 20,
) -> Model:
    """The model of p(x_0 | y) with x_0 given x_t taken for N(E[x_0 | x_t], r^2 I).

        g = J^T A^T (r^2 A A^T + std^2 I)^-1 (y - A E[x_0 | x_t])
        r^2 = sigma^2 c / (alpha^2 c + sigma^2),     c = prior_variance

    r^2 is the variance that x_0 has given x_t where the data is N(m, c I), for which the method is
    exact; otherwise it is biased. The inverse is found by conjugate gradients on A A^T, which cost
    no network evaluation; 1 iteration is exact for masks, gray values and box averages.

    A must be linear. One forward and one backward pass. Source: Song et al. 2023 (PiGDM), without
    the additional weight r^2 of the guidance in its algorithm.
    """
    require_fit(model, operator, "pigdm")
    require(lambda c: c > 0.0, "pigdm needs prior_variance > 0", c=prior_variance)
    count = Count.of("pigdm", "iterations", iterations)
    return Model(model.sde, _pigdm, (model, operator, jnp.asarray(prior_variance), count))


def _pigdm(params: Any, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
    model, operator, c, iterations = params
    seen = see(model, operator, x, t, cond, "pigdm")
    alpha, sigma = seen.prediction.alpha, seen.prediction.sigma
    variance = jnp.broadcast_to(sigma**2 * c / (alpha**2 * c + sigma**2), x.shape[:1])
    back = weighted_back(seen.operator, seen.residual, seen.x0, variance, seen.variance, iterations)
    return seen.guided(back)
