"""Denoising: a model says from x_t = alpha x_0 + sigma eps what x_0 and eps were.

    E_t [ w(t) || y - y_model(x_t, t) ||^2 ],    y the view that the weighting is on

Every loss is a function (key, model, x0, cond=...) -> [B], one value for each sample.
`denoising_objective` makes of it what a step of training minimizes.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from sde_diffusion.model import Model
from sde_diffusion.objectives import time_density
from sde_diffusion.objectives.objective import Metrics, Objective
from sde_diffusion.objectives.weighting import Weighting, constant
from sde_diffusion.sdes import SDE, VE, VP, Array, expand

T = TypeVar("T", bound=SDE)

EPS, UNIFORM = constant("eps"), time_density.uniform()


def mean(squares: Array) -> Array:
    """The mean over a sample's dimensions, [B]."""
    return jnp.mean(squares, axis=tuple(range(1, squares.ndim)))


def half_sum(squares: Array) -> Array:
    """Half the sum over a sample's dimensions, [B], as in likelihood training."""
    return 0.5 * jnp.sum(squares, axis=tuple(range(1, squares.ndim)))


REDUCTIONS: dict[str, Callable[[Array], Array]] = {"mean": mean, "half_sum": half_sum}


def denoising_loss(
    key: Array,
    model: Model,
    x0: Array,
    *,
    cond: Any = None,
    weighting: Weighting = EPS,
    times: time_density.Times = UNIFORM,
    draw: time_density.Draw = time_density.independent,
    reduction: Callable[[Array], Array] = mean,
) -> Array:
    """w(t) || y - y_model(x_t, t) ||^2, [B] for x0 [B, *event].

    The view y and w are those of `weighting`, by default eps and 1 (Song et al. 2021, eq. 7, with
    lambda = sigma^2). The times are `times(sde, draw(key, B))`. Works for a model of any kind of
    prediction and for every SDE.
    """
    sde = model.sde
    key_t, key_z = jax.random.split(key)
    t, ratio = times(sde, draw(key_t, len(x0)))
    squares = _squared_errors(key_z, model, x0, t, cond, weighting.on)
    return ratio * weighting.weight(sde, t) * reduction(squares)


def smld_loss(
    key: Array,
    model: Model,
    x0: Array,
    *,
    cond: Any = None,
    num_scales: int = 1000,
    reduction: Callable[[Array], Array] = mean,
) -> Array:
    """sigma_i^2 || score + z / sigma_i ||^2 at one of N noise levels, [B].

    Song & Ermon 2019, eq. 6. Raises ValueError unless the model's SDE is VE.
    """
    _require_sde("smld_loss", model, VE)
    key_i, key_z = jax.random.split(key)
    index = jax.random.randint(key_i, (len(x0),), 0, num_scales)
    t = index * (model.sde.t_max / (num_scales - 1))
    return reduction(_squared_errors(key_z, model, x0, t, cond, "eps"))


def ddpm_loss(
    key: Array,
    model: Model,
    x0: Array,
    *,
    cond: Any = None,
    num_scales: int = 1000,
    reduction: Callable[[Array], Array] = mean,
) -> Array:
    """|| eps - eps_model(sqrt(abar_i) x0 + sqrt(1 - abar_i) eps, i) ||^2, [B].

    Ho et al. 2020, eq. 14.

    abar_i is the product of DDPM's own 1 - beta_j, which differs from alpha(t)^2 by the error of
    its discretization. The model is asked at t = t_max i / (N - 1), whose label is i.
    Raises ValueError unless the model's SDE is VP.
    """
    sde = _require_sde("ddpm_loss", model, VP)
    key_i, key_z = jax.random.split(key)
    index = jax.random.randint(key_i, (len(x0),), 0, num_scales)
    log_abar = jnp.cumsum(jnp.log1p(-sde.betas(num_scales)))[index]
    eps = jax.random.normal(key_z, x0.shape, x0.dtype)
    alpha, sigma = jnp.exp(0.5 * log_abar), jnp.sqrt(-jnp.expm1(log_abar))
    x = expand(alpha, x0) * x0 + expand(sigma, x0) * eps
    prediction = model(x, index * (sde.t_max / (num_scales - 1)), cond)
    return reduction((prediction.eps - eps) ** 2)


def denoising_objective(
    model: Callable[[Any, Array], Model],
    data: Callable[[Array, Any, Any], tuple[Array, Any]],
    loss: Callable[..., Array] = denoising_loss,
) -> Objective:
    """The objective loss(key, model(params, key), x0, cond=cond) with x0, cond = data(key, batch).

    Args:
        model: model(params, key) is the model that is trained; the key is for dropout.
        data: data(key, batch, frozen) gives x0 [B, *event] and its condition, a pytree of arrays
            [B, ...] or None. It scales and augments, drops conditions, and encodes by what is
            frozen.
        loss: one of the losses above, its options bound by `functools.partial`.
    """

    def objective(
        params: Any, key: Array, batch: Any, *, frozen: Any, ema: tuple[Any, ...], step: Array
    ) -> tuple[Array, Metrics]:
        del ema, step
        key_data, key_dropout, key_loss = jax.random.split(key, 3)
        x0, cond = data(key_data, batch, frozen)
        return loss(key_loss, model(params, key_dropout), x0, cond=cond), {}

    return objective


def _squared_errors(key: Array, model: Model, x0: Array, t: Array, cond: Any, view: str) -> Array:
    """(y_model - y)^2 at x_t for a view y, [B, *event]."""
    mean_t, std = model.sde.marginal_prob(x0, t)
    eps = jax.random.normal(key, x0.shape, x0.dtype)
    return model(mean_t + expand(std, x0) * eps, t, cond).error(view, x0, eps) ** 2


def _require_sde(loss: str, model: Model, kind: type[T]) -> T:
    if type(model.sde) is not kind:
        raise ValueError(
            f"{loss} is of the discrete chain of {kind.__name__}, but the model's SDE is "
            f"{type(model.sde).__name__}: use denoising_loss"
        )
    return model.sde
