"""TrainState: all that changes from one training step to the next."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sde_diffusion.training.ema import check_rates

InitFn = Callable[[jax.Array], Any]


class TrainState(NamedTuple):
    """The number of updates made (int32), the parameters, the optimizer's state, one EMA a rate."""

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    ema: tuple[Any, ...]


def _new_state(
    init_params: InitFn, optimizer: optax.GradientTransformation, ema_rates: Sequence[float]
) -> Callable[[jax.Array], TrainState]:
    copies = len(check_rates(ema_rates))

    def new_state(key: jax.Array) -> TrainState:
        params = init_params(key)
        return TrainState(jnp.int32(0), params, optimizer.init(params), (params,) * copies)

    return new_state


def abstract_state(
    init_params: InitFn,
    optimizer: optax.GradientTransformation,
    ema_rates: Sequence[float],
    *,
    shardings: Callable[[TrainState], TrainState] | None = None,
) -> TrainState:
    """Shape, dtype and sharding of every leaf of the state, without computing or allocating it.

    `shardings` takes this tree (without shardings) to the tree of them; by default everything is
    on the first device.
    """
    state = jax.eval_shape(_new_state(init_params, optimizer, ema_rates), jax.random.key(0))
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
    init_params: InitFn,
    optimizer: optax.GradientTransformation,
    ema_rates: Sequence[float],
    key: jax.Array,
    *,
    shardings: Callable[[TrainState], TrainState] | None = None,
) -> TrainState:
    """The state at step 0, born on its devices: no device ever holds a leaf that it does not keep.

    `init_params(key)` gives the parameters; the EMAs start equal to them.
    """
    abstract = abstract_state(init_params, optimizer, ema_rates, shardings=shardings)
    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(_new_state(init_params, optimizer, ema_rates), out_shardings=placed)(key)
