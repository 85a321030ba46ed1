"""Flow maps: where the probability flow takes a sample from one time to another.

    dx/dt = velocity(x, t),    x_s = F(x_t, t, s)

A network of two times gives the map in one evaluation, as a prediction "towards s":

    F(x, t, s) = alpha_s x0(x, t, s) + sigma_s eps(x, t, s)                                  (1)

where x0 and eps are two views of one output, so F(x, t, t) = x exactly, whatever the network says
and on every SDE. As s approaches t the output becomes the usual prediction at t. With the straight
path of `Flow` its velocity is the average velocity of MeanFlow (Geng et al. 2025), with alpha = 1
its x0 is g of consistency trajectory models (Kim et al. 2024), and with s at the data it is the
output of a consistency model (Song et al. 2023).

Any other model has a flow map by a fine solution of its flow, with an estimate of its error. With
phi = arctan(sigma / alpha) and r = sqrt(alpha^2 + sigma^2) the flow is

    d(x / r) / dphi = cos(phi) eps - sin(phi) x0                                             (2)

which is finite from pure noise (phi = pi / 2) to the data (phi = 0), on every SDE.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from sde_diffusion.model import Model, as_pytree, called, time_dtype
from sde_diffusion.parameterization import Parameterization, named, require_fits
from sde_diffusion.prediction import Mapped, Prediction
from sde_diffusion.sdes import SDE, Array, Time, expand

# The steps of a fine solution go by equal parts of log(sigma / alpha) between these limits, and
# from there to the end in one step.
LIMIT = 6.0


def from_flow_map_network(
    sde: SDE,
    apply: Callable[..., Array],
    variables: Any,
    parameterization: str | Parameterization = "edm",
) -> Model:
    """A model whose flow map is equation (1) of a network of two times, in one evaluation.

    `apply` is called as apply(variables, x [B, *event], label_t [B], label_s [B]), with cond as a
    fifth argument where there is a condition; `networks.two_times` makes it of any of our networks.
    The labels are those of the parameterization, and s below t_min has the label of t_min. The
    model's prediction at t is that of s = t.

    A consistency network, which has one time and always maps to the data, is used by ignoring
    label_s.

    Raises ValueError for a parameterization that does not fit the SDE.
    """
    parameters = named(parameterization)
    require_fits(parameters, sde)
    apply = as_pytree(apply)
    return Model(
        sde,
        Partial(_at_one_time, apply, parameters),
        variables,
        Partial(_in_one_evaluation, apply, parameters),
    )


def to_the_data(model: Model) -> Model:
    """A consistency model: the model with the map that its prediction at one time gives.

        F(x, t, s) = alpha_s x0(x, t) + sigma_s eps(x, t)

    which is the flow map for s = t_min alone, once the network was trained to give it (by
    `consistency_loss`, `scm_loss`, or `trajectory_loss` with to_end=1), so samples are renoised
    between the steps: `FlowMap(gamma=1.0)`. So a network of one time, such as a pretrained one, is
    trained and sampled in a few evaluations. F(x, t, t) = x exactly.
    """
    return Model(model.sde, model.function, model.params, Partial(_to_the_data, model.function))


def predicted_towards(model: Model, x: Array, t: Time, s: Time, cond: Any = None) -> Prediction:
    """The prediction towards s of a model of `from_flow_map_network`; `.towards(s)` is F(x, t, s).

    That of a model of `to_the_data` is the same for every s. Raises ValueError for another model.
    """
    mapping = model.mapping
    if isinstance(mapping, Partial) and mapping.func is _to_the_data:
        return model(x, t, cond)
    if not (isinstance(mapping, Partial) and mapping.func is _in_one_evaluation):
        raise ValueError(
            "the model gives no prediction towards a second time: make it by "
            "flow_map.from_flow_map_network"
        )
    t, s = (jnp.asarray(time, time_dtype(x)) for time in (t, s))
    apply, parameterization = mapping.args
    return _towards(apply, parameterization, model.params, model.sde, x, t, s, cond)


def solved(model: Model, *, steps: int = 64) -> Model:
    """The model with a flow map by `steps` steps of RK4 on (2), and an estimate of its error.

    A map takes 6 steps evaluations: 4 a step, and half as many for a solution of half as many
    steps. A fifteenth of the difference of the two estimates the error (Richardson). `s` may be
    above or below t.

    The map is defined where there is noise, sigma > 0. Raises ValueError unless steps is even and
    at least 2.
    """
    if steps < 2 or steps % 2:
        raise ValueError(f"solved needs an even number of steps of at least 2, got {steps}")
    return Model(model.sde, model.function, model.params, Partial(_solved, model.function, steps))


def _at_one_time(
    apply: Callable[..., Array],
    parameterization: Parameterization,
    params: Any,
    sde: SDE,
    x: Array,
    t: Array,
    cond: Any,
) -> Prediction:
    return _towards(apply, parameterization, params, sde, x, t, t, cond)


def _in_one_evaluation(
    apply: Callable[..., Array],
    parameterization: Parameterization,
    params: Any,
    sde: SDE,
    x: Array,
    t: Array,
    s: Array,
    cond: Any,
) -> Mapped:
    return Mapped(_towards(apply, parameterization, params, sde, x, t, s, cond).towards(s))


def _to_the_data(
    function: Callable[..., Prediction],
    params: Any,
    sde: SDE,
    x: Array,
    t: Array,
    s: Array,
    cond: Any,
) -> Mapped:
    return Mapped(function(params, sde, x, t, cond).towards(s))


def _towards(
    apply: Callable[..., Array],
    parameterization: Parameterization,
    params: Any,
    sde: SDE,
    x: Array,
    t: Array,
    s: Array,
    cond: Any,
) -> Prediction:
    c_in, c_skip, c_out = (expand(c, x) for c in parameterization.coefficients(sde, t))
    labels = (parameterization.label(sde, time) for time in (t, jnp.maximum(s, sde.t_min)))
    first, second = (jnp.broadcast_to(label, x.shape[:1]) for label in labels)

    def network(x: Array, first: Array, *cond: Any) -> Array:
        return apply(params, x, first, second, *cond)

    raw = called(network, c_in * x, first, cond).astype(t.dtype)
    return Prediction(parameterization.kind, c_skip * x + c_out * raw, x, t, sde)


def _solved(
    function: Callable[..., Prediction],
    steps: int,
    params: Any,
    sde: SDE,
    x: Array,
    t: Array,
    s: Array,
    cond: Any,
) -> Mapped:
    def slope(y: Array, angle: Array) -> Array:
        # Float32's pi / 2 is above pi / 2.
        time = sde.t_of_log_snr(jnp.log(jnp.maximum(jnp.cos(angle), 0.0)) - jnp.log(jnp.sin(angle)))
        r = jnp.hypot(sde.alpha(time), sde.sigma(time))
        prediction = function(params, sde, expand(r, y) * y, time, cond)
        return (
            expand(jnp.cos(angle), y) * prediction.eps - expand(jnp.sin(angle), y) * prediction.x0
        )

    def step(y: Array, angles: tuple[Array, Array]) -> tuple[Array, None]:
        start, end = angles
        h = expand(end - start, y)
        middle = 0.5 * (start + end)
        k1 = slope(y, start)
        k2 = slope(y + 0.5 * h * k1, middle)
        k3 = slope(y + 0.5 * h * k2, middle)
        k4 = slope(y + h * k3, end)
        return y + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4), None

    t, s = (jnp.broadcast_to(time, x.shape[:1]) for time in (t, s))
    angles = _angles(sde, t, s, steps)
    start = x / expand(jnp.hypot(sde.alpha(t), sde.sigma(t)), x)
    ends = []
    for nodes in (angles, angles[::2]):
        y, _ = jax.lax.scan(step, start, (nodes[:-1], nodes[1:]))
        ends.append(expand(jnp.hypot(sde.alpha(s), sde.sigma(s)), x) * y)
    squares = ((ends[0] - ends[1]) / 15.0) ** 2
    error = jnp.sqrt(jnp.mean(squares, axis=tuple(range(1, x.ndim))))
    same = expand(t == s, x)
    return Mapped(jnp.where(same, x, ends[0]), 6 * steps, jnp.where(t == s, 0.0, error))


def _angles(sde: SDE, t: Array, s: Array, steps: int) -> Array:
    """phi at the nodes of the steps from t to s, [steps + 1, B]."""
    first, last = (-sde.log_snr(time) for time in (t, s))
    low, high = (jnp.clip(end, -LIMIT, LIMIT) for end in (first, last))
    share = jnp.linspace(0.0, 1.0, steps + 1, dtype=t.dtype)[:, None]
    angles = jnp.arctan(jnp.exp(low + share * (high - low)))
    return angles.at[0].set(jnp.arctan(jnp.exp(first))).at[-1].set(jnp.arctan(jnp.exp(last)))
