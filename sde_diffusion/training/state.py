"""TrainState: the values that change from one training step to the next."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sde_diffusion.training.recipe import Recipe


class TrainState(NamedTuple):
    """The number of updates (int32), parameters, the optimizer's state, an EMA for each rate."""

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    ema: tuple[Any, ...]


def abstract_state(
    recipe: Recipe, *, shardings: Callable[[TrainState], TrainState] | None = None
) -> TrainState:
    """Shape, dtype and sharding of every leaf of the state, without computing or allocating it.

    `shardings` maps the tree of shapes to a tree of shardings; by default everything is on the
    first device.
    """
    state = jax.eval_shape(_new_state(recipe), jax.random.key(0))
    if shardings is None:
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        placed = jax.tree.map(lambda _: first, state)
    else:
        placed = shardings(state)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        placed,
    )


def init_state(
    recipe: Recipe,
    key: jax.Array,
    *,
    shardings: Callable[[TrainState], TrainState] | None = None,
) -> TrainState:
    """The state at step 0, created with its shardings: no device ever holds more than its parts.

    `recipe.init_params(key)` returns the parameters; the EMAs start equal to them.
    """
    abstract = abstract_state(recipe, shardings=shardings)
    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(_new_state(recipe), out_shardings=placed)(key)


def _new_state(recipe: Recipe) -> Callable[[jax.Array], TrainState]:
    def new_state(key: jax.Array) -> TrainState:
        params = recipe.init_params(key)
        averages = (params,) * len(recipe.ema_rates)
        return TrainState(jnp.int32(0), params, recipe.optimizer.init(params), averages)

    return new_state
