"""What a network says about a noisy sample, in every form that a sampler or a loss may ask for.

With x = alpha x0 + sigma eps, each kind of prediction is a known combination of x0 and eps:

    x0        the denoised sample, E[x_0 | x_t]
    eps       the noise
    score     -eps / sigma
    v         alpha eps - sigma x0                           (Salimans & Ho 2022, sec. 4)
    velocity  d alpha/dt x0 + d sigma/dt eps                 (the probability-flow ODE's right side)

Given one of them and x, any other view is the solution of two linear equations, computed at once.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import SDE, Array, Time, expand
from sde_diffusion.selection import require_known

PREDICTIONS = ("x0", "eps", "score", "v", "velocity")

Coefficient = Array | float


class Mapped(NamedTuple):
    """A sample that a flow map took to another time, x [B, *event].

    `evaluations`, [] or [B], is the number of network evaluations that it took. `error` [B] is an
    estimate of the root mean square error of each sample, or None where none is known.
    """

    x: Array
    evaluations: Array | int = 1
    error: Array | None = None


class Correction(NamedTuple):
    """What weights must add so that a score that is not that of a diffusion is followed exactly.

    Let pi_t be the density whose score a model predicts, a product of powers of noised densities.
    Particles that follow the model have the law pi_t if their log weights change by `rate` times
    the change of lambda = log(alpha / sigma); see `guidance.FeynmanKac`. `power`, the sum of the
    exponents, is such that pi_T is N(0, sigma_T^2 / power). Both are [] or [B], or None where they
    are not known: the prediction is then the score of no such density.
    """

    rate: Array | float | None
    power: Array | float | None


NO_CORRECTION = Correction(None, None)


@pytree
class Prediction:
    """A network's output `value` of the given `kind` at (x, t); `.x0 .eps .score .v .velocity`.

    value and x are [B, *event]; t is [] or [B]. `evaluations`, [] or [B], is the number of network
    evaluations that the output took: 2 for classifier-free guidance, for example. Views that are
    not read cost nothing under jit. Guidance sets `correction`; a network has none.

    Raises ValueError for an unknown kind.
    """

    kind: str = dataclasses.field(metadata={"static": True})
    value: Array
    x: Array
    t: Array
    sde: SDE
    evaluations: Array | int = 1
    correction: Correction | None = None

    def __post_init__(self) -> None:
        require_known("kind of prediction", self.kind, PREDICTIONS)

    @property
    def alpha(self) -> Array:
        return self.sde.alpha(self.t)

    @property
    def sigma(self) -> Array:
        return self.sde.sigma(self.t)

    @property
    def x0(self) -> Array:
        return self._view("x0")

    @property
    def eps(self) -> Array:
        return self._view("eps")

    @property
    def score(self) -> Array:
        return self._view("score")

    @property
    def v(self) -> Array:
        return self._view("v")

    @property
    def velocity(self) -> Array:
        return self._view("velocity")

    def view(self, kind: str) -> Array:
        """The view of that kind, [B, *event]; ValueError lists the kinds for an unknown one."""
        require_known("kind of prediction", kind, PREDICTIONS)
        return self._view(kind)

    def towards(self, s: Time) -> Array:
        """The sample at time s along the straight line that the prediction gives, [B, *event].

            x_s = alpha_s x0 + sigma_s eps = (sigma_s / sigma_t) x + (alpha_s - alpha_t sigma_s /
            sigma_t) x0

        It is DDIM's step (Song et al. 2021, DDIM, eq. 12), and exactly x where s = t. In the
        coordinates x / alpha and sigma / alpha the line is straight.
        """
        ratio = self.sde.sigma(s) / self.sigma
        of_x0 = self.sde.alpha(s) - self.alpha * ratio
        return expand(ratio, self.x) * self.x + expand(of_x0, self.x) * self._view("x0")

    def error(self, kind: str, x0: Array, eps: Array) -> Array:
        """The view of that kind minus the true one, [B, *event], where x is made of x0 and eps.

        It is computed from the difference in the prediction's own kind, in which nothing cancels
        at small sigma.
        """
        p, q = self._combination(self.kind)
        difference = self.value - (expand(p, x0) * x0 + expand(q, eps) * eps)
        if kind == self.kind:
            return difference
        if kind == "score" and self.kind == "eps":
            return -difference / expand(self.sigma, x0)
        if kind == "eps" and self.kind == "score":
            return -expand(self.sigma, x0) * difference
        # An error d of p x0 + q eps leaves x = alpha x0 + sigma eps as it is, so it is an error of
        # -sigma d / D in x0 and of alpha d / D in eps, where D = alpha q - sigma p.
        r, w = self._combination(kind)
        scale = (self.alpha * w - self.sigma * r) / (self.alpha * q - self.sigma * p)
        return expand(scale, x0) * difference

    def with_x0_moved(self, change: Array) -> "Prediction":
        """The prediction at the same x whose x0 is larger by `change` [B, *event].

        A change of 0 leaves the value as it is, to the last digit.
        """
        p, q = self._combination(self.kind)
        return self._changed(expand(p - q * self.alpha / self.sigma, self.x) * change)

    def with_score_moved(self, change: Array) -> "Prediction":
        """The prediction at the same x whose score is larger by `change` [B, *event].

        Where alpha = 0 the score says nothing about x0, and only a prediction of eps or of the
        score changes.
        """
        (p, q), alpha = self._combination(self.kind), jnp.asarray(self.alpha)
        signal = jnp.where(alpha > 0.0, alpha, 1.0)
        x0_per_eps = jnp.where(alpha > 0.0, -self.sigma / signal, 0.0)
        eps = -expand(self.sigma, self.x) * change
        return self._changed(expand(p * x0_per_eps + q, self.x) * eps)

    def _changed(self, change: Array) -> "Prediction":
        value = self.value + change.astype(self.value.dtype)
        return dataclasses.replace(self, value=value, correction=NO_CORRECTION)

    def _combination(self, kind: str) -> tuple[Coefficient, Coefficient]:
        """(p, q) with kind = p x0 + q eps."""
        match kind:
            case "x0":
                return 1.0, 0.0
            case "eps":
                return 0.0, 1.0
            case "score":
                return 0.0, -1.0 / self.sigma
            case "v":
                return -self.sigma, self.alpha
            case _:
                return self.sde.alpha_dot(self.t), self.sde.sigma_dot(self.t)

    def _view(self, kind: str) -> Array:
        if kind == self.kind:
            return self.value
        if kind == "score":  # by sigma alone, so that it exists where alpha = 0
            return -self._view("eps") / expand(self.sigma, self.x)
        if self.kind == "score" and kind == "eps":
            return -expand(self.sigma, self.x) * self.value
        # value = p x0 + q eps and x = alpha x0 + sigma eps give x0 and eps, and with them
        # r x0 + w eps = [(r q - w p) x + (w alpha - r sigma) value] / (alpha q - sigma p).
        (p, q), (r, w) = self._combination(self.kind), self._combination(kind)
        alpha, sigma = self.alpha, self.sigma
        determinant = alpha * q - sigma * p
        of_x = expand((r * q - w * p) / determinant, self.x)
        of_value = expand((w * alpha - r * sigma) / determinant, self.x)
        return of_x * self.x + of_value * self.value
