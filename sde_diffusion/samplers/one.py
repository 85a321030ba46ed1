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
        # Evaluated for its shapes alone, yet the model may know whole batches only.
        everyone = jnp.broadcast_to(x, (batch, *x.shape[1:]))
        made = model(everyone, jnp.broadcast_to(t, (batch,)))
        return Prediction(made.kind, made.value[:1], x, t, made.sde)

    @predict.def_vmap
    def _(size: int, batched: Any, model: Callable[..., Prediction], x: Array, t: Array) -> Any:
        _, x_batched, t_batched = batched
        x = x if x_batched else jnp.broadcast_to(x, (size, *x.shape))
        t = t if t_batched else jnp.broadcast_to(t, (size,))
        made = model(x[:, 0], t)
        of_all = jax.tree.map(lambda _: False, made.sde)
        batched = Prediction(made.kind, True, True, True, of_all)  # type: ignore[arg-type]
        return Prediction(made.kind, made.value[:, None], x, t, made.sde), batched

    return predict
