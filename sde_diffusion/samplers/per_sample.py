"""The model of one sample, for solvers whose samples go their own ways."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import Array


def predict_one(batch: int) -> Callable[..., Prediction]:
    """predict(model, x [1, *event], t []), to be mapped over the `batch` samples by jax.vmap.

    The model then gets all samples at once, [batch, *event] and [batch], in their order, so that
    conditions which it has closed over keep their place beside their samples. Of nested maps the
    innermost must be that over the samples.
    """

    @custom_vmap
    def predict(model: Callable[..., Prediction], x: Array, t: Array) -> Prediction:
        made = model(*_repeated(batch, x, t))
        return Prediction(made.kind, made.value[:1], x, t, made.sde)

    @predict.def_vmap
    def _(size: int, batched: Any, model: Callable[..., Prediction], x: Array, t: Array) -> Any:
        x, t = _of_all(size, batched, x, t)
        made = model(x[:, 0], t)
        of_all = jax.tree.map(lambda _: False, made.sde)
        batched = Prediction(made.kind, True, True, True, of_all)  # type: ignore[arg-type]
        return Prediction(made.kind, made.value[:, None], x, t, made.sde), batched

    return predict


def jacobian_one(batch: int) -> Callable[..., Array]:
    """jacobian(model, x [1, *event], t []) = d velocity / dx, [*event, *event], mapped likewise.

    The model is evaluated once, with its derivatives along all dimensions of a sample.
    """

    @custom_vmap
    def jacobian(model: Callable[..., Prediction], x: Array, t: Array) -> Array:
        return _jacobians(model, *_repeated(batch, x, t))[0]

    @jacobian.def_vmap
    def _(size: int, batched: Any, model: Callable[..., Prediction], x: Array, t: Array) -> Any:
        x, t = _of_all(size, batched, x, t)
        return _jacobians(model, x[:, 0], t), True

    return jacobian


def _jacobians(model: Callable[..., Prediction], x: Array, t: Array) -> Array:
    """d velocity / dx of each of the samples x [B, *event] at t [B], [B, *event, *event]."""
    event = x.shape[1:]
    directions = jnp.eye(x[0].size, dtype=x.dtype).reshape(-1, 1, *event)

    def along(direction: Array) -> Array:
        direction = jnp.broadcast_to(direction, x.shape)
        return jax.jvp(lambda x: model(x, t).velocity, (x,), (direction,))[1]

    return jax.vmap(along, out_axes=-1)(directions).reshape(*x.shape, *event)


def _repeated(batch: int, x: Array, t: Array) -> tuple[Array, Array]:
    """One sample as a whole batch: for shapes alone, yet the model may know whole batches only."""
    return jnp.broadcast_to(x, (batch, *x.shape[1:])), jnp.broadcast_to(t, (batch,))


def _of_all(size: int, batched: Any, x: Array, t: Array) -> tuple[Array, Array]:
    """x [size, 1, *event] and t [size], of which a map may have left out what all share."""
    _, x_batched, t_batched = batched
    x = x if x_batched else jnp.broadcast_to(x, (size, *x.shape))
    return x, t if t_batched else jnp.broadcast_to(t, (size,))
