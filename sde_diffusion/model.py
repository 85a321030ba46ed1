"""Model: a network, or any function, together with the SDE that it was made for.

A model is asked about noisy samples x [B, *event] at time t under a condition, and answers with a
`Prediction`. It is a pytree: its parameters, the numbers of its SDE and the arrays that its
function holds are leaves, so a model with other values of them compiles nothing anew.

    model = from_eps(VP(), lambda x, t: network(x, t))
    model(x, t).score
    model(x, t, labels).x0            # fn(x, t, labels)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from sde_diffusion.parameterization import (
    LEAST_SIGNAL,
    Parameterization,
    named,
    require_fits,
    signal_at_the_end,
)
from sde_diffusion.prediction import Mapped, Prediction
from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import SDE, Array, Time, expand
from sde_diffusion.sdes.base import is_known

Function = Callable[..., Array]


@pytree
class Model:
    """A function with its SDE and its parameters: model(x, t, cond=None) -> Prediction.

    `function(params, sde, x, t, cond)` gives the Prediction for x [B, *event] and t, [] or [B].
    `cond` is any pytree of arrays [B, ...]: labels, embeddings, an image, a measurement; or None.
    Samplers pass it beside x, so that every sample keeps its own condition. A plain function
    belongs to the model's structure, so two models with the same one share a compiled program; the
    arrays that a `jax.tree_util.Partial` holds are leaves.

    `mapping(params, sde, x, t, s, cond)`, where there is one, gives the flow map, as `Mapped`.

    Use `from_eps`, `from_score`, `from_x0`, `from_v`, `from_velocity` or `from_network` unless the
    prediction is made in a way of its own, as in guidance; `flow_map.from_flow_map_network` for a
    network that was trained to give the flow map.
    """

    sde: SDE
    function: Callable[..., Prediction]
    params: Any = None
    mapping: Callable[..., Mapped] | None = None

    def __post_init__(self) -> None:
        for name in ("function", "mapping"):
            if callable(getattr(self, name)):
                object.__setattr__(self, name, as_pytree(getattr(self, name)))

    # A model is itself alone, so that jax.jit takes it as a function though it holds arrays.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __call__(self, x: Array, t: Time, cond: Any = None) -> Prediction:
        """The prediction at x [B, *event] and t [] or [B]; TypeError if it is another value.

        The time is at least float32, whatever the dtype of x is: bfloat16 would round it to three
        digits.
        """
        t = jnp.asarray(t, time_dtype(x))
        made = self.function(self.params, self.sde, x, t, cond)
        if not isinstance(made, Prediction):
            raise TypeError(
                f"a Model's function must return a Prediction, got {type(made).__name__}: make "
                "the model by from_eps, from_score, from_x0, from_v or from_velocity"
            )
        return made

    def flow_map(self, x: Array, t: Time, s: Time, cond: Any = None) -> Mapped:
        """Where the probability flow takes x [B, *event] from time t to time s, both [] or [B].

        `.x` is the sample at s, and `.evaluations` the number of network evaluations that it took.
        Raises ValueError for a model without a flow map: `flow_map.solved` gives it one.
        """
        if self.mapping is None:
            raise ValueError(
                "the model has no flow map: flow_map.solved(model) computes one by a fine "
                "solution, and flow_map.from_flow_map_network is for a network of two times"
            )
        dtype = time_dtype(x)
        return self.mapping(
            self.params, self.sde, x, jnp.asarray(t, dtype), jnp.asarray(s, dtype), cond
        )

    def reverse_sde(self, x: Array, t: Time, cond: Any = None) -> tuple[Array, Array]:
        """(drift [B, *event], diffusion [] or [B]) of the reverse SDE: f x - g^2 score, and g.

        Source: Anderson 1982; Song et al. 2021, eq. 6.
        """
        drift, diffusion = self.sde.sde(x, t)
        return drift - expand(diffusion**2, x) * self(x, t, cond).score, diffusion

    def probability_flow(self, x: Array, t: Time, cond: Any = None) -> Array:
        """dx/dt of the probability-flow ODE, f x - g^2 score / 2, [B, *event].

        It is read as the velocity d alpha/dt x0 + d sigma/dt eps, the same function, which stays
        finite where alpha vanishes. Source: Song et al. 2021, eq. 13.
        """
        return self(x, t, cond).velocity


def time_dtype(x: Array) -> Any:
    """The dtype of times and coefficients for samples x: at least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)


def as_pytree(fn: Callable[..., Any]) -> Partial:
    """The function as a pytree: what a Partial holds are its leaves."""
    # A Partial of a Partial would hide the inner one's leaves.
    return fn if isinstance(fn, Partial) else Partial(fn)


def require_model(model: Any) -> None:
    """Raise TypeError, which says how to make one, unless it is a Model."""
    if not isinstance(model, Model):
        raise TypeError(
            f"model must be a Model, as from_eps(sde, fn) makes it, got {type(model).__name__}"
        )


def from_x0(sde: SDE, fn: Function) -> Model:
    """A model from a denoiser fn(x [B, *event], t [B]) -> E[x_0 | x_t] [B, *event].

    Where a condition is given, fn(x, t, cond) is called.
    """
    return _from("x0", sde, fn)


def from_eps(sde: SDE, fn: Function) -> Model:
    """A model from a noise predictor fn(x [B, *event], t [B]) -> eps [B, *event].

    Where a condition is given, fn(x, t, cond) is called. Raises ValueError where the SDE has
    alpha = 0 at t_max, where eps says nothing about x_0.
    """
    return _from("eps", sde, fn)


def from_score(sde: SDE, fn: Function) -> Model:
    """A model from a score fn(x [B, *event], t [B]) -> grad log p_t(x) [B, *event].

    Where a condition is given, fn(x, t, cond) is called. Raises ValueError where the SDE has
    alpha = 0 at t_max, where the score says nothing about x_0.
    """
    return _from("score", sde, fn)


def from_v(sde: SDE, fn: Function) -> Model:
    """A model from fn(x [B, *event], t [B]) -> alpha eps - sigma x0 [B, *event].

    Where a condition is given, fn(x, t, cond) is called.
    """
    return _from("v", sde, fn)


def from_velocity(sde: SDE, fn: Function) -> Model:
    """A model from a velocity field fn(x [B, *event], t [B]) -> dx/dt [B, *event].

    Where a condition is given, fn(x, t, cond) is called.
    """
    return _from("velocity", sde, fn)


def from_network(
    sde: SDE,
    apply: Function,
    variables: Any,
    parameterization: str | Parameterization = "ddpm",
) -> Model:
    """A model c_skip x + c_out apply(variables, c_in x, label, cond); see `parameterization`.

    `apply` is called as `module.apply` of a Flax module is: apply(variables, x [B, *event],
    label [B]), with cond as a fourth argument where there is a condition. In any other library a
    function of these arguments will do. `variables` are the model's `params`.

    Raises ValueError for an unknown parameterization, and for one that does not fit the SDE: eps or
    the score where alpha = 0 at t_max, or an infinite time label.
    """
    parameters = named(parameterization)
    require_fits(parameters, sde)
    return Model(sde, Partial(_network, as_pytree(apply), parameters), variables)


def require_signal(sde: SDE, kind: str, of: str) -> None:
    """Raise ValueError where eps or the score is to tell x_0 although x at t_max is pure noise."""
    if kind not in ("eps", "score") or not is_known(*jax.tree.leaves(sde)):
        return
    signal = signal_at_the_end(sde)
    if not signal > LEAST_SIGNAL:
        raise ValueError(
            f"{of}: {kind} says nothing about the data at t_max={sde.t_max:g} of "
            f"{type(sde).__name__}, where alpha / sigma = {signal:.1e}: predict v, velocity or "
            f"x0, or choose t_max below {sde.t_max:g}"
        )


@jax.tree_util.register_static
class _Kind(str):
    """The kind of a prediction, as a part of a model's structure rather than one of its leaves."""


def _from(kind: str, sde: SDE, fn: Function) -> Model:
    require_signal(sde, kind, f"from_{kind}")
    return Model(sde, Partial(_predict, as_pytree(fn), _Kind(kind)))


def _predict(
    fn: Function, kind: _Kind, params: None, sde: SDE, x: Array, t: Array, cond: Any
) -> Prediction:
    times = jnp.broadcast_to(t, x.shape[:1])
    if 1 < x.shape[0] == x.shape[-1] and x.ndim > 1:
        _require_batch_axis(fn, x, times, cond)
    return Prediction(str(kind), called(fn, x, times, cond), x, t, sde)


def _require_batch_axis(fn: Function, x: Array, t: Array, cond: Any) -> None:
    """Raise ValueError where t [B] meets the last axis of x [B, ..., B] in place of the first.

    -x / t is such a function: it fails for any other B, and would give wrong numbers for this one.
    So it is traced, not run, with one sample more.
    """

    def one_more(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((len(x) + 1, *jnp.shape(leaf)[1:]), jnp.result_type(leaf))

    given = (x, t) if cond is None else (x, t, cond)
    try:
        jax.eval_shape(fn, *jax.tree.map(one_more, given))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the model's function takes x of shape {x.shape} but not one sample more: t has shape "
            "[B], so write expand(t, x) where it multiplies x, and pass arrays that belong to the "
            "samples as cond"
        ) from error


def _network(
    apply: Function,
    parameterization: Parameterization,
    params: Any,
    sde: SDE,
    x: Array,
    t: Array,
    cond: Any,
) -> Prediction:
    c_in, c_skip, c_out = (expand(c, x) for c in parameterization.coefficients(sde, t))
    label = jnp.broadcast_to(parameterization.label(sde, t), x.shape[:1])
    raw = called(Partial(apply, params), c_in * x, label, cond).astype(t.dtype)
    return Prediction(parameterization.kind, c_skip * x + c_out * raw, x, t, sde)


def called(fn: Function, x: Array, t: Array, cond: Any) -> Array:
    """fn(x, t), or fn(x, t, cond) where there is a condition; ValueError for another shape."""
    value = fn(x, t) if cond is None else fn(x, t, cond)
    if jnp.shape(value) != x.shape:
        raise ValueError(
            f"the model's function returned shape {jnp.shape(value)} for x of shape {x.shape}"
        )
    return value
