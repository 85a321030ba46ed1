"""MMPS: x_0 given x_t taken for a Gaussian of the model's own covariance; iterative."""

from typing import Any

import jax

from sde_diffusion.inverse.linear_algebra import conjugate_gradients
from sde_diffusion.inverse.operator import Operator
from sde_diffusion.inverse.tweedie import Count, require_fit, see
from sde_diffusion.model import Model
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array, expand


def mmps(model: Model, operator: Operator | None = None, *, iterations: int = 3) -> Model:
    """The model of p(x_0 | y) with x_0 given x_t taken for N(E[x_0 | x_t], V), V = Cov[x_0 | x_t].

        g = J^T A^T K^-1 (y - A E[x_0 | x_t]),     K = A V A^T + std^2 I,     V = sigma^2 / alpha J

    K^-1 is found by conjugate gradients. One of their `iterations` takes one backward pass, and g
    takes another: one forward and 1 + iterations backward passes.

    Exact for Gaussian data, linear A and as many iterations as there are measurements (or distinct
    eigenvalues of K). For other data it takes x_0 given x_t for a Gaussian: where several modes
    fit, the weights of the modes are biased. A nonlinear A is replaced by its linearization at the
    denoised sample. Source: Rozet et al. 2024 (Learning Diffusion Priors from Observations by
    Expectation Maximization), "moment matching posterior sampling".
    """
    require_fit(model, operator)
    count = Count.of("mmps", "iterations", iterations)
    return Model(model.sde, _mmps, (model, operator, count))


def _mmps(params: Any, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
    model, operator, iterations = params
    seen = see(model, operator, x, t, cond)
    _, forward = jax.linearize(seen.operator, seen.x0)
    _, back = jax.vjp(seen.operator, seen.x0)

    def apply(v: Array) -> Array:
        return forward(seen.covariance(back(v)[0])) + expand(seen.variance, v) * v

    solved = conjugate_gradients(apply, seen.residual, iterations)
    return seen.guided(back(solved)[0])
