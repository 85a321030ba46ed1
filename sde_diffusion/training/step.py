"""The training step: gradient, update and EMA, several times in one compiled call."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from sde_diffusion import distributed
from sde_diffusion.training.ema import check_rates, rate_at, update_ema
from sde_diffusion.training.stacking import Stacking
from sde_diffusion.training.state import TrainState

LossFn = Callable[[Any, jax.Array, Any], jax.Array]


class StepMetrics(NamedTuple):
    """What each update reports: the mean loss, and the gradient's global norm before clipping."""

    loss: jax.Array
    grad_norm: jax.Array


StepFn = Callable[[TrainState, jax.Array, Any], tuple[TrainState, StepMetrics]]


def make_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    ema_rates: Sequence[float] = (),
    *,
    accumulate: int = 1,
    elementwise: bool = False,
    shardings: Any = None,
    gather_dtype: str = "float32",
    compiler_options: Mapping[str, str] | None = None,
) -> StepFn:
    """step(state, key, batches) -> (state, metrics), compiled; the state's buffers are reused.

    `loss_fn(params, key, batch)` gives a loss [B] a sample; its mean is what is minimized.
    `batches` is a batch whose leaves have a leading axis K: K updates are made, one a slice, and
    every metric is [K]. The update after `n` earlier ones draws from `fold_in(key, n)`, so the
    result does not depend on where a run was cut into calls.

    With `accumulate = A` each update averages the gradients of A parts of its batch, one after the
    other: the memory of a batch A times smaller.

    `elementwise` says that the optimizer treats every element alike, whichever leaf it is in, as
    Adam does, with clipping by the global norm too: small leaves are then updated together.

    On a mesh `shardings` is the TrainState of its leaves' shardings, which it keeps; the metrics
    are then on every device. What is split is gathered in `gather_dtype`, which changes nothing for
    a network that computes in it, and halves what bfloat16 sends. `compiler_options` are XLA's own.
    """
    rates = check_rates(ema_rates)
    if accumulate < 1:
        raise ValueError(f"accumulate: {accumulate} is not at least 1")

    def mean_loss(params: Any, key: jax.Array, batch: Any) -> jax.Array:
        if shardings is not None:
            params = distributed.gather(
                params, shardings.params, shardings.step, dtype=gather_dtype
            )
        return jnp.mean(loss_fn(params, key, batch))

    def loss_and_grads(params: Any, key: jax.Array, batch: Any) -> tuple[jax.Array, Any]:
        if accumulate == 1:
            return jax.value_and_grad(mean_loss)(params, key, batch)

        def add_part(total: Any, part: Any) -> tuple[Any, None]:
            index, batch_part = part
            new = jax.value_and_grad(mean_loss)(params, jax.random.fold_in(key, index), batch_part)
            return jax.tree.map(jnp.add, total, new), None

        parts = (jnp.arange(accumulate), split_batch(batch, accumulate))
        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        total, _ = lax.scan(add_part, zero, parts)
        return jax.tree.map(lambda leaf: leaf / accumulate, total)

    def update(
        stacking: Stacking | None, key: jax.Array, state: TrainState, batch: Any
    ) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(key, state.step)
        params = state.params if stacking is None else stacking.unstack(state.params)
        loss, grads = loss_and_grads(params, key, batch)
        if stacking is not None:
            grads = stacking.stack(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = tuple(
            update_ema(average, params, rate_at(rate, state.step))
            for rate, average in zip(rates, state.ema, strict=True)
        )
        metrics = StepMetrics(loss, optax.tree.norm(grads))
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    def step(state: TrainState, key: jax.Array, batches: Any) -> tuple[TrainState, StepMetrics]:
        if not elementwise:
            return lax.scan(partial(update, None, key), state, batches)
        stacking = Stacking(jax.eval_shape(lambda: state.params))
        stacked, metrics = lax.scan(
            partial(update, stacking, key), stacking.stack_within(state), batches
        )
        return stacking.unstack_within(stacked), metrics

    # The batches are not donated: no output has their shape, so nothing could reuse their buffers.
    compiled = partial(jax.jit, donate_argnums=0, compiler_options=dict(compiler_options or {}))
    if shardings is None:
        return compiled(step)
    # The number of the step is a scalar, whole on every device: so are the metrics.
    return compiled(step, out_shardings=(shardings, shardings.step))


def split_batch(batch: Any, parts: int) -> Any:
    """Leaves [B, ...] -> [parts, B / parts, ...]; ValueError if B is not a multiple of `parts`."""

    def split(leaf: jax.Array) -> jax.Array:
        size = leaf.shape[0]
        if size % parts:
            raise ValueError(f"accumulate: {parts} does not divide the batch of {size}")
        # Every parts-th sample, not a contiguous run of them: a batch that is sharded over devices
        # then needs no communication, since each device's samples are spread over all the parts.
        return jnp.swapaxes(leaf.reshape(size // parts, parts, *leaf.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)
