"""The model of one sample, for solvers in which each sample takes steps of its own.

Such a solver is written for one sample and mapped over the batch by `jax.vmap`. The model is not
mapped: it is called once with the whole batch, [B, *event] and [B], so a network runs at its full
batch size.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from sde_diffusion.model import Model
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array


def predict_one(batch: int) -> Callable[..., Prediction]:
    """predict(model, x [1, *event], t [], cond), to be mapped over the `batch` samples by jax.vmap.

    The leaves of cond are [1, ...]. In nested maps, the innermost one must be over the samples.
    """

    @custom_vmap
    def predict(model: Model, x: Array, t: Array, cond: Any) -> Prediction:
        made = model(*_repeated(batch, x, t, cond))
        evaluations = jnp.broadcast_to(jnp.asarray(made.evaluations), (batch,))[0]
        return Prediction(made.kind, made.value[:1], x, t, made.sde, evaluations)

    @predict.def_vmap
    def _(size: int, batched: Any, model: Model, x: Array, t: Array, cond: Any) -> Any:
        x, t, cond = _of_all(size, batched, x, t, cond)
        made = model(*_joined(x, t, cond))
        evaluations = jnp.broadcast_to(jnp.asarray(made.evaluations), (size,))
        of_all = jax.tree.map(lambda _: False, made.sde)
        batched = Prediction(made.kind, True, True, True, of_all, True)  # type: ignore[arg-type]
        return Prediction(made.kind, made.value[:, None], x, t, made.sde, evaluations), batched

    return predict


class OneSample:
    """A model for a solver's step inside a map over samples: x is [1, *event] and t is []."""

    def __init__(self, batch: int, model: Model):
        self.model, self.predict = model, predict_one(batch)

    @property
    def sde(self) -> SDE:
        return self.model.sde

    def __call__(self, x: Array, t: Array, cond: Any = None) -> Prediction:
        return self.predict(self.model, x, t, cond)


def alone(tree: Any) -> Any:
    """The leaves [...] of one sample as a batch of one, [1, ...]."""
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _repeated(batch: int, x: Array, t: Array, cond: Any) -> tuple[Array, Array, Any]:
    """One sample as a whole batch, for the shapes of what the model gives."""

    def repeat(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf, (batch, *leaf.shape[1:]))

    return repeat(x), jnp.broadcast_to(t, (batch,)), jax.tree.map(repeat, cond)


def _of_all(size: int, batched: Any, x: Array, t: Array, cond: Any) -> tuple[Array, Array, Any]:
    """x [size, 1, *event], t [size] and cond [size, 1, ...]: a map leaves out what is shared."""

    def spread(is_batched: bool, leaf: Array) -> Array:
        return leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))

    return jax.tree.map(spread, tuple(batched[1:]), (x, t, cond))


def _joined(x: Array, t: Array, cond: Any) -> tuple[Array, Array, Any]:
    """x [B, *event], t [B] and cond [B, ...] of samples that are batches of one."""
    return x[:, 0], t, jax.tree.map(lambda leaf: leaf[:, 0], cond)
