"""The training step: gradient, update and moving averages, several times in one compiled call."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from sde_diffusion import distributed, layerwise
from sde_diffusion.objectives.objective import Metrics
from sde_diffusion.training.compiler_options import check_compiler_options
from sde_diffusion.training.ema import rate_at, update_ema
from sde_diffusion.training.optim import Elementwise
from sde_diffusion.training.recipe import Recipe
from sde_diffusion.training.stacking import Stacking
from sde_diffusion.training.state import TrainState, abstract_state

# (state, key, batches, frozen) -> (state, metrics)
StepFn = Callable[..., tuple[TrainState, dict[str, jax.Array]]]

# What a record has beside the objective's own metrics.
RESERVED = (
    *("step", "time", "loss", "grad_norm", "learning_rate"),
    *("steps_per_second", "images_per_second"),
)


class Shardings(NamedTuple):
    """Where the state and the frozen tree lie on a mesh: a sharding in place of each leaf."""

    state: Any
    frozen: Any


def make_step(recipe: Recipe, shardings: Shardings | None = None) -> StepFn:
    """step(state, key, batches, frozen=None) -> (state, metrics), compiled.

    `batches` is a batch whose leaves have a leading axis K, and K updates are made, one for each
    slice. `metrics` maps names to arrays [K]: "loss" (the mean of the batch), "grad_norm" (the
    global norm of its gradient, before clipping), and what the objective reports. The update after
    n earlier ones draws from `fold_in(key, n)`, so the result does not depend on how a run is
    divided into calls.

    The buffers of `state` are reused; those of `batches` and `frozen` are not. With `shardings` the
    state keeps them, and the metrics are on every device.

    Raises ValueError, when the step is first called, for an objective whose loss is not [B], or
    whose metrics are not scalars, or are named like what every record has.
    """
    loss_and_grads = _loss_and_grads(recipe, shardings)

    def update(
        stacking: Stacking | None, key: jax.Array, frozen: Any, state: TrainState, batch: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(key, state.step)
        unstacked = state
        if stacking is not None:
            unstacked = state._replace(
                params=stacking.unstack(state.params),
                ema=tuple(stacking.unstack(average) for average in state.ema),
            )
        (loss, metrics), grads = loss_and_grads(unstacked, key, batch, frozen)
        if stacking is not None:
            grads = stacking.stack(grads)
        updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = tuple(
            update_ema(average, params, rate_at(rate, state.step))
            for rate, average in zip(recipe.ema_rates, state.ema, strict=True)
        )
        reported = {"loss": loss, "grad_norm": optax.tree.norm(grads), **metrics}
        return TrainState(state.step + 1, params, opt_state, ema), reported

    def step(
        state: TrainState, key: jax.Array, batches: Any, frozen: Any = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        if not isinstance(recipe.optimizer, Elementwise):
            return lax.scan(partial(update, None, key, frozen), state, batches)
        stacking = Stacking(jax.eval_shape(lambda: state.params))
        stacked, metrics = lax.scan(
            partial(update, stacking, key, frozen), stacking.stack_within(state), batches
        )
        return stacking.unstack_within(stacked), metrics

    # The batches are not donated: no output has their shape, so nothing could reuse their buffers.
    compiler_options = dict(recipe.options.compiler_options)
    compiled = partial(jax.jit, donate_argnums=0, compiler_options=compiler_options)
    if shardings is None:
        return compiled(step)
    return compiled(step, out_shardings=(shardings.state, shardings.state.step))


def _loss_and_grads(recipe: Recipe, shardings: Shardings | None) -> Callable[..., Any]:
    """(state, key, batch, frozen) -> ((mean loss, metrics), its gradient in the parameters)."""
    options = recipe.options
    on_mesh: Callable[[], AbstractContextManager[None]] = nullcontext
    if shardings is not None:
        whole = shardings.state.step  # a scalar
        gather = partial(distributed.gather, whole=whole, dtype=options.gather_dtype)
        on_mesh = partial(layerwise.over, whole.mesh)

    def loss_and_grads(
        state: TrainState, key: jax.Array, batch: Any, frozen: Any
    ) -> tuple[tuple[jax.Array, Metrics], Any]:
        ema = state.ema
        if shardings is not None:
            ema = gather(ema, shardings.state.ema)
            frozen = gather(frozen, shardings.frozen)

        def mean_loss(params: Any, key: jax.Array, part: Any) -> tuple[jax.Array, Metrics]:
            if shardings is not None:
                params = gather(params, shardings.state.params)
            loss, metrics = recipe.objective(
                params, key, part, frozen=frozen, ema=ema, step=state.step
            )
            _check_objective(loss, metrics)
            return jnp.mean(loss), dict(metrics)

        gradient = jax.value_and_grad(mean_loss, has_aux=True)
        if options.accumulate == 1:
            return gradient(state.params, key, batch)

        def add_part(total: Any, part: Any) -> tuple[Any, Metrics]:
            index, samples = part
            (loss, metrics), grads = gradient(state.params, jax.random.fold_in(key, index), samples)
            return jax.tree.map(jnp.add, total, (loss, grads)), metrics

        parts = (jnp.arange(options.accumulate), split_batch(batch, options.accumulate))
        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
        total, metrics = lax.scan(add_part, zero, parts)
        loss, grads = jax.tree.map(lambda leaf: leaf / options.accumulate, total)
        return (loss, jax.tree.map(partial(jnp.mean, axis=0), metrics)), grads

    # The mesh is ambient in the backward pass too, where scanned layers are gathered again.
    def on_its_mesh(*arguments: Any) -> Any:
        with on_mesh():
            return loss_and_grads(*arguments)

    return on_its_mesh


class StepOnMesh(NamedTuple):
    """A compiled step, and the shapes and shardings of the state and the frozen tree it takes."""

    step: StepFn
    state: TrainState
    frozen: Any


def step_on_mesh(mesh: Mesh, recipe: Recipe) -> StepOnMesh:
    """The step that `train` makes on the mesh.

    Nothing is allocated, so the devices need not be present: a program that is compiled for them
    ahead of time is the one that `train` runs. Raises ValueError for compiler options that the
    devices' compiler does not know.
    """
    check_compiler_options(recipe.options.compiler_options, mesh.devices.flat[0])
    rule = partial(distributed.state_shardings, mesh)
    state = abstract_state(recipe, shardings=rule)
    frozen = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        recipe.frozen,
        rule(recipe.frozen),
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (state, frozen))
    return StepOnMesh(make_step(recipe, Shardings(*shardings)), state, frozen)


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


def _check_objective(loss: jax.Array, metrics: Metrics) -> None:
    if jnp.ndim(loss) != 1:
        raise ValueError(
            f"the objective's loss must have one value for each sample, shape [B]; "
            f"its shape is {jnp.shape(loss)}"
        )
    for name, value in metrics.items():
        if name in RESERVED:
            raise ValueError(
                f"the objective's metric {name!r} has the name of something that every record has"
            )
        if jnp.shape(value) != ():
            raise ValueError(
                f"the objective's metric {name!r} must be a scalar; its shape is {jnp.shape(value)}"
            )
