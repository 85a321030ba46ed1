"""SDA: the likelihood of the denoised sample, with a variance that grows with the noise."""

from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion.inverse.operator import Operator
from sde_diffusion.inverse.tweedie import Seen, require_fit, see
from sde_diffusion.model import Model
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array, expand
from sde_diffusion.sdes.base import require


def sda(model: Model, operator: Operator | None = None, *, gamma: Array | float = 1.0) -> Model:
    """The model of p(x_0 | y) with p(y | x_t) taken for N(y; A(E[x_0 | x_t]), v I).

        v = std^2 + gamma sigma^2 / alpha^2

    gamma is the variance of x_0 given x_t in the range of A, in units of sigma^2 / alpha^2. As
    gamma falls to 0 this becomes the approximation of DPS, which takes E[x_0 | x_t] for x_0 itself:
    its guidance is too strong at large sigma and stiff for small std. `DPS` is its published step.

    Any differentiable operator will do. One forward and one backward pass. Biased, also for
    Gaussians. Source: Rozet & Louppe 2023 (Score-based Data
    Assimilation).

    Raises ValueError unless gamma > 0.
    """
    require_fit(model, operator)
    require(lambda gamma: gamma > 0.0, "sda needs gamma > 0", gamma=gamma)
    return Model(model.sde, _sda, (model, operator, jnp.asarray(gamma)))


def _sda(params: Any, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
    model, operator, gamma = params
    seen = see(model, operator, x, t, cond)
    # Where alpha = 0 the variance is infinite, which leaves no guidance.
    noise = jnp.exp(-2.0 * seen.prediction.sde.log_snr(t))
    return seen.guided(likelihood_gradient(seen, seen.variance + gamma * noise))


def likelihood_gradient(seen: Seen, variance: Array) -> Array:
    """grad_x0 log N(y; A(x0), variance I) = A'^T (y - A(x0)) / variance, [B, *event]."""
    _, back = jax.vjp(seen.operator, seen.x0)
    return back(seen.residual / expand(variance, seen.residual))[0]
