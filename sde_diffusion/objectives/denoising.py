"""Denoising score matching: E_t [ w(t) || eps - eps_model(alpha x_0 + sigma eps, t) ||^2 ].

Every loss is a function (key, model, x0, cond) -> [B], one value for each sample. All weightings of
the literature are weights on the error of the noise, because the errors of the other views are
multiples of it: those of the score by 1 / sigma^2, and of x_0 by (sigma / alpha)^2.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from sde_diffusion.model import Model
from sde_diffusion.objectives import time_density
from sde_diffusion.sdes import SDE, VE, VP, Array, expand

T = TypeVar("T", bound=SDE)

Weighting = Callable[[SDE, Array], Array]

UNIFORM = time_density.uniform()


def paper(sde: SDE, t: Array) -> Array:
    """sigma^2 on the score: 1. Song et al. 2021, eq. 7 with lambda(t) = sigma(t)^2."""
    return jnp.ones_like(t)


def likelihood(sde: SDE, t: Array) -> Array:
    """g^2 on the score: g^2 / sigma^2 = -2 d lambda/dt. Song et al. 2021 (maximum likelihood)."""
    return (sde.diffusion(t) / sde.sigma(t)) ** 2


def edm(sigma_data: float = 0.5) -> Weighting:
    """(s^2 + sigma_data^2) / (s sigma_data)^2 on x_0, s = sigma / alpha.

    Karras et al. 2022, table 1.
    """

    def weight(sde: SDE, t: Array) -> Array:
        ratio = jnp.exp(-2.0 * sde.log_snr(t))  # s^2
        return (ratio + sigma_data**2) / sigma_data**2

    return weight


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on x_0, SNR = (alpha / sigma)^2. Hang et al. 2023."""
    return lambda sde, t: jnp.minimum(1.0, gamma * jnp.exp(-2.0 * sde.log_snr(t)))


def sigmoid(bias: float = 0.0) -> Weighting:
    """-d(2 lambda)/dt sigmoid(bias - 2 lambda) on eps. Kingma & Gao 2023; Hoogeboom et al. 2024."""
    return lambda sde, t: likelihood(sde, t) * jax.nn.sigmoid(bias - 2.0 * sde.log_snr(t))


WEIGHTINGS: dict[str, Callable[..., Weighting]] = {
    "paper": lambda: paper,
    "likelihood": lambda: likelihood,
    "edm": edm,
    "min_snr": min_snr,
    "sigmoid": sigmoid,
}


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
    weighting: Weighting = paper,
    times: time_density.Times = UNIFORM,
    draw: time_density.Draw = time_density.independent,
    reduction: Callable[[Array], Array] = mean,
) -> Array:
    """w(t) || eps - eps_model(x_t, t) ||^2, [B] for x0 [B, *event]; t from `times`, u from `draw`.

    Song et al. 2021, eq. 7. Works for a model of any kind of prediction and for every SDE.
    """
    sde = model.sde
    key_t, key_z = jax.random.split(key)
    t, ratio = times(sde, draw(key_t, len(x0)))
    squares = _squared_errors(key_z, model, x0, t, cond)
    return ratio * weighting(sde, t) * reduction(squares)


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
    return reduction(_squared_errors(key_z, model, x0, t, cond))


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


def _squared_errors(key: Array, model: Model, x0: Array, t: Array, cond: Any) -> Array:
    """(eps_model - eps)^2 at x_t, [B, *event]."""
    mean_t, std = model.sde.marginal_prob(x0, t)
    eps = jax.random.normal(key, x0.shape, x0.dtype)
    return model(mean_t + expand(std, x0) * eps, t, cond).error("eps", x0, eps) ** 2


def _require_sde(loss: str, model: Model, kind: type[T]) -> T:
    if type(model.sde) is not kind:
        raise ValueError(
            f"{loss} is of the discrete chain of {kind.__name__}, but the model's SDE is "
            f"{type(model.sde).__name__}: use denoising_loss"
        )
    return model.sde
