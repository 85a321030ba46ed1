"""What exponential integrators share: the exact solution of the linear part of the ODE.

In lambda = log(alpha / sigma), along the probability flow from t to s with h the step in lambda
and u in [0, 1] the completed part of it,

    x_s = sigma_s / sigma_t x_t + alpha_s h int exp(-h (1 - u)) x0(u) du                       (1)
    x_s = alpha_s / alpha_t x_t - sigma_s h int exp(+h (1 - u)) eps(u) du                      (2)

A method interpolates one of the two views, x0 or eps, by a polynomial in u, and integrates that
exactly by the phi functions, int exp(z (1 - u)) u^k / k! du = phi_{k+1}(z). A constant
view gives the same step for both: exponential Euler, or DDIM. `Span` holds the coefficients of the
other terms.

The SDE with eta times the noise variance of the reverse SDE has the same marginals,
dx = [f x - (1 + eta) g^2 score / 2] dt + sqrt(eta) g dw_bar:

    x_s = exp(-eta h) sigma_s / sigma_t x_t + sigma_s sqrt(1 - exp(-2 eta h)) z
          + (1 + eta) alpha_s h int exp(-(1 + eta) h (1 - u)) x0(u) du                         (3)

(1) is Lu et al. 2022 (DPM-Solver++), (2) is Lu et al. 2022 (DPM-Solver), proposition 3.1; the phi
functions are those of Hochbruck & Ostermann 2010.
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from sde_diffusion.model import LEAST_SIGNAL
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.solver import Solver
from sde_diffusion.sdes import SDE, Array


def phi(k: int, z: Array) -> Array:
    """phi_k(z) = sum_j z^j / (j + k)!, that is phi_0 = exp and phi_k = (phi_{k-1} - 1/(k-1)!) / z.

    For |z| < 1 it is computed by the series, because the recursion subtracts close numbers there.
    """
    small = jnp.abs(z) < 1.0
    near = jnp.where(small, z, 0.0)
    series = jnp.zeros_like(z)
    for j in reversed(range(18)):
        series = near * series + 1.0 / math.factorial(j + k)
    far = jnp.where(small, 1.0, z)
    recursion = jnp.exp(far)
    for j in range(k):
        recursion = (recursion - 1.0 / math.factorial(j)) / far
    return jnp.where(small, series, recursion)


def exponential_euler(prediction: Prediction, s: Array) -> Array:
    """x_s = alpha_s x0 + sigma_s eps: either view is constant from the prediction's time to s."""
    return prediction.sde.alpha(s) * prediction.x0 + prediction.sde.sigma(s) * prediction.eps


def has_signal(log_snr: Array) -> Array:
    """Whether float32 can tell alpha from 0 beside sigma, by lambda = log(alpha / sigma)."""
    return log_snr > math.log(LEAST_SIGNAL)


class Span(NamedTuple):
    """The step from t to s as equations (1) to (3) see it.

    h is its length in lambda, z = -h for x0 and h for eps, and scale is alpha_s or -sigma_s; rate
    is 1 / h. A polynomial cannot span a step from alpha_t = 0, where lambda is infinite, or from an
    alpha_t that float32 cannot distinguish from 0 next to sigma_t. For such a step scale and rate
    are 0, which leaves exponential Euler, and h is 1 in place of infinity.
    """

    h: Array
    z: Array
    scale: Array
    rate: Array

    @classmethod
    def of(cls, view: str, sde: SDE, t: Array, s: Array) -> "Span":
        start, end = sde.log_snr(t), sde.log_snr(s)
        if view == "x0":
            return cls._spanning(start, end, end - start, -1.0, sde.alpha(s))
        return cls._spanning(start, end, end - start, 1.0, -sde.sigma(s))

    @classmethod
    def of_sde(cls, eta: Array | float, sde: SDE, t: Array, s: Array) -> "Span":
        """The step in x0 of (3): z = -(1 + eta) h and scale = (1 + eta) alpha_s."""
        start, end = sde.log_snr(t), sde.log_snr(s)
        return cls._spanning(start, end, end - start, -(1.0 + eta), (1.0 + eta) * sde.alpha(s))

    @classmethod
    def of_ratio(cls, sde: SDE, t: Array, s: Array) -> "Span":
        """The step in rho = sigma / alpha, with z = 0.

        x_s = alpha_s / alpha_t x_t - alpha_s h int eps(u) du,   h = rho_t - rho_s.
        """
        start, end = sde.log_snr(t), sde.log_snr(s)
        return cls._spanning(start, end, jnp.exp(-start) - jnp.exp(-end), 0.0, -sde.alpha(s))

    @classmethod
    def _spanning(
        cls, start: Array, end: Array, h: Array, growth: Array | float, scale: Array
    ) -> "Span":
        # Both ends are checked, because encoding takes the step in the other direction.
        spanned = jnp.isfinite(h) & has_signal(start) & has_signal(end)
        h = jnp.where(spanned, h, 1.0)
        rate = jnp.where(spanned, 1.0 / h, 0.0)
        return cls(h, growth * h, jnp.where(spanned, scale, 0.0), rate)


def between(sde: SDE, t: Array, s: Array, part: float) -> Array:
    """The time at which lambda has completed the given part of the way from t to s."""
    if part == 1.0:
        return s
    # A weighted mean of both ends, which is t itself if lambda_t is infinite.
    return sde.t_of_log_snr((1.0 - part) * sde.log_snr(t) + part * sde.log_snr(s))


def seen(view: str, prediction: Prediction) -> Any:
    """The view "x0" or "eps" of a prediction."""
    return prediction.x0 if view == "x0" else prediction.eps


@dataclasses.dataclass(frozen=True)
class Exponential(Solver):
    """Base of the exponential integrators: the exponential Euler step and the `span` of a step.

    Integrators of the SDE (3) override both, so each method is written once.
    """

    view: ClassVar[str]

    def span(self, sde: SDE, t: Array, s: Array) -> Span:
        return Span.of(self.view, sde, t, s)

    def euler(self, prediction: Prediction, s: Array) -> Array:
        return exponential_euler(prediction, s)
