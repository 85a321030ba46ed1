"""Weightings of the denoising loss: w(t) on the squared error of one view of the prediction.

    L = E_t [ w(t) || y - y_model(x_t, t) ||^2 ],    y one of x0, eps, score, v, velocity

The errors of two views differ by a factor that depends on t alone, so a weighting of one view is
another weighting of any other. Where alpha is 0 (at t = 1 of a flow, or of a chain with zero
terminal SNR) the error of eps is 0 whatever the model says; there a loss trains the model only if
its weighting is on x0, v or velocity.

Known losses:

    constant("eps")                           DDPM's simple loss (Ho et al. 2020, eq. 14) and
                                              sigma^2 on the score (Song et al. 2021, eq. 7)
    constant("velocity")                      conditional flow matching (Lipman et al. 2023)
    constant("velocity"), logit-normal times  Stable Diffusion 3 (Esser et al. 2024, sec. 3.1)
    constant("v")                             v-prediction (Salimans & Ho 2022)
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sde_diffusion.prediction import PREDICTIONS
from sde_diffusion.sdes import SDE, Array
from sde_diffusion.selection import require_known


@dataclass(frozen=True)
class Weighting:
    """The weight `weight(sde, t)` [B] on the squared error of the view `on`.

    Raises ValueError for an unknown view.
    """

    on: str
    weight: Callable[[SDE, Array], Array]

    def __post_init__(self) -> None:
        require_known("kind of prediction", self.on, PREDICTIONS)


def _one(sde: SDE, t: Array) -> Array:
    return jnp.ones_like(t)


def constant(on: str = "eps") -> Weighting:
    """1 on any view: the plain loss of eps, x0, v or velocity."""
    return Weighting(on, _one)


def _likelihood(sde: SDE, t: Array) -> Array:
    return (sde.diffusion(t) / sde.sigma(t)) ** 2


def likelihood() -> Weighting:
    """g^2 on the score, which is g^2 / sigma^2 = -2 d lambda/dt on eps.

    Song et al. 2021 (maximum likelihood).
    """
    return Weighting("eps", _likelihood)


def edm(sigma_data: float = 0.5) -> Weighting:
    """(s^2 + sigma_data^2) / (s sigma_data)^2 = 1 / sigma_data^2 + SNR on x0, s = sigma / alpha.

    Karras et al. 2022, table 1.
    """
    return Weighting("x0", lambda sde, t: sigma_data**-2.0 + jnp.exp(2.0 * sde.log_snr(t)))


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on x0, SNR = (alpha / sigma)^2. Hang et al. 2023."""
    return Weighting("x0", lambda sde, t: jnp.minimum(jnp.exp(2.0 * sde.log_snr(t)), gamma))


def sigmoid(bias: float = 0.0) -> Weighting:
    """-d(2 lambda)/dt sigmoid(bias - 2 lambda) on eps. Kingma & Gao 2023; Hoogeboom et al. 2024."""

    def weight(sde: SDE, t: Array) -> Array:
        return _likelihood(sde, t) * jax.nn.sigmoid(bias - 2.0 * sde.log_snr(t))

    return Weighting("eps", weight)


WEIGHTINGS: dict[str, Callable[..., Weighting]] = {
    "constant": constant,
    "likelihood": likelihood,
    "edm": edm,
    "min_snr": min_snr,
    "sigmoid": sigmoid,
}
