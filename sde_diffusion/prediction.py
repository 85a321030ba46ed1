"""What a network says about a noisy sample, in every form that a sampler or a loss may ask for.

With x = alpha x0 + sigma eps, each kind of prediction is a known combination of x0 and eps:

    x0        the denoised sample, E[x_0 | x_t]
    eps       the noise
    score     -eps / sigma
    v         alpha eps - sigma x0                           (Salimans & Ho 2022, sec. 4)
    velocity  d alpha/dt x0 + d sigma/dt eps                 (the probability-flow ODE's right side)

Given one of them and x, the other view is the solution of two linear equations, computed at once.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from sde_diffusion.parameterization import Parameterization, named
from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import SDE, Array, Time, expand

PREDICTIONS = ("x0", "eps", "score", "v", "velocity")

Coefficient = Array | float


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Kind:
    """The kind of a prediction, as part of a model's structure rather than one of its leaves."""

    name: str


@pytree
class Prediction:
    """A network's output `value` of the given `kind` at (x, t); `.x0 .eps .score .v .velocity`.

    value and x are [B, *event]; t is [] or [B]. Views that are not read cost nothing under jit.
    """

    kind: str = dataclasses.field(metadata={"static": True})
    value: Array
    x: Array
    t: Array
    sde: SDE

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

    def noise_error(self, x0: Array, eps: Array) -> Array:
        """This prediction's eps minus the true one, [B, *event], where x is made of x0 and eps.

        Taken from the difference in the given kind, in which nothing cancels at small sigma.
        """
        p, q = self._combination(self.kind)
        target = expand(p, x0) * x0 + expand(q, eps) * eps
        scale = self.alpha / (self.alpha * q - self.sigma * p)
        return expand(scale, x0) * (self.value - target)

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


def _predict(
    fn: Callable[..., Array], sde: SDE, kind: _Kind, x: Array, t: Time, **condition: Any
) -> Prediction:
    t = jnp.asarray(t, x.dtype)
    return Prediction(kind.name, fn(x, t, **condition), x, t, sde)


def _from(kind: str, sde: SDE, fn: Callable[..., Array]) -> Callable[..., Prediction]:
    return Partial(_predict, _as_pytree(fn), sde, _Kind(kind))


def _as_pytree(fn: Callable[..., Any]) -> Partial:
    # What a Partial holds are its leaves, so a model made anew with other values does not retrace.
    # A Partial of a Partial would hide the inner one's leaves.
    return fn if isinstance(fn, Partial) else Partial(fn)


def from_x0(sde: SDE, fn: Callable[..., Array]) -> Callable[..., Prediction]:
    """A model from a denoiser fn(x [B, *event], t) -> E[x_0 | x_t] [B, *event]."""
    return _from("x0", sde, fn)


def from_eps(sde: SDE, fn: Callable[..., Array]) -> Callable[..., Prediction]:
    """A model from a noise predictor fn(x [B, *event], t) -> eps [B, *event]."""
    return _from("eps", sde, fn)


def from_score(sde: SDE, fn: Callable[..., Array]) -> Callable[..., Prediction]:
    """A model from a score fn(x [B, *event], t) -> grad log p_t(x) [B, *event]."""
    return _from("score", sde, fn)


def from_v(sde: SDE, fn: Callable[..., Array]) -> Callable[..., Prediction]:
    """A model from fn(x [B, *event], t) -> alpha eps - sigma x0 [B, *event]."""
    return _from("v", sde, fn)


def from_velocity(sde: SDE, fn: Callable[..., Array]) -> Callable[..., Prediction]:
    """A model from a velocity field fn(x [B, *event], t) -> dx/dt [B, *event]."""
    return _from("velocity", sde, fn)


def from_network(
    sde: SDE,
    apply: Callable[..., Array],
    variables: Any,
    parameterization: str | Parameterization = "ddpm",
) -> Callable[..., Prediction]:
    """A model c_skip x + c_out apply(variables, c_in x, label, **condition); see parameterization.

    apply is called as `module.apply` of a Flax module is; in any other library a function of
    (variables, x [B, *event], label [B], **condition) will do. Raises ValueError for an unknown
    parameterization.
    """
    return Partial(_network, _as_pytree(apply), variables, sde, named(parameterization))


def _network(
    apply: Callable[..., Array],
    variables: Any,
    sde: SDE,
    parameterization: Parameterization,
    x: Array,
    t: Time,
    **condition: Any,
) -> Prediction:
    t = jnp.asarray(t, x.dtype)
    c_in, c_skip, c_out = (expand(c, x) for c in parameterization.coefficients(sde, t))
    label = jnp.broadcast_to(parameterization.label(sde, t), x.shape[:1])
    raw = apply(variables, c_in * x, label, **condition).astype(x.dtype)
    return Prediction(parameterization.kind, c_skip * x + c_out * raw, x, t, sde)


def with_condition(model: Callable[..., Prediction], **condition: Any) -> Callable[..., Prediction]:
    """The model with conditions closed over: (x, t) -> model(x, t, **condition).

    Conditions are arrays [B, ...] beside the samples, such as `condition=labels`. As
    `functools.partial` does, but other values of the conditions do not retrace.
    """
    return Partial(_conditioned, _as_pytree(model), condition)


def _conditioned(
    model: Callable[..., Prediction], condition: dict[str, Any], x: Array, t: Time
) -> Prediction:
    return model(x, t, **condition)
