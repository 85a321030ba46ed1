"""The programs that `plan` compiles: a step of training, and a step of sampling."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sde_diffusion import distributed, noise, training
from sde_diffusion.distributed.mesh import AXES
from sde_diffusion.model import Model
from sde_diffusion.samplers import Solver
from sde_diffusion.samplers.solver import Counted
from sde_diffusion.sdes import Array


def lower_training_step(
    mesh: Mesh, batch: dict[str, Any], recipe: training.Recipe
) -> jax.stages.Lowered:
    """One update as `training.train` makes it; nothing is allocated.

    `batch` has the shapes [B, ...] of a global batch. Raises ValueError when B does not divide over
    the devices.
    """
    distributed.check_batch_size(mesh, jax.tree.leaves(batch)[0].shape[0])
    compiled = training.step_on_mesh(mesh, recipe)
    step: Any = compiled.step  # what jax.jit made
    # What is planned is one update, however many a call of `train` makes.
    by_sample = NamedSharding(mesh, P(None, AXES))
    batches = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype, sharding=by_sample), batch
    )
    return step.lower(compiled.state, _key(), batches, compiled.frozen)


def lower_sampler_step(
    mesh: Mesh,
    model: Callable[[Any], Model],
    params: Any,
    shape: tuple[int, ...],
    *,
    solver: Solver,
    grid: Array | None,
    cond: Any,
) -> jax.stages.Lowered:
    """One step of `solver` on samples of `shape` [B, *event]; nothing is allocated.

    `model(params)` is the model with these parameters, and `cond` has the shapes [B, ...] of its
    condition, or is None. Samples are spread over all devices and parameters placed by
    `distributed.sampling_shardings`, as `sde-diffusion sample` has them. An adaptive solver's step
    is a loop of unknown length, of which one round counts.

    Raises ValueError when B does not divide over the devices.
    """
    distributed.check_batch_size(mesh, shape[0])
    whole, by_sample = distributed.replicated(mesh), distributed.shard_samples(mesh)
    times = jnp.asarray(solver.times) if grid is None else grid

    def step(key: Array, params: Any, x: Array, cond: Any, t: Array, s: Array) -> Any:
        spread = distributed.spread(model(params), mesh)
        keys = noise.fold_in(noise.sample_keys(key, shape[0]), 1)
        return solver.step(keys, Counted(spread), solver.init(x, times), t, s, cond).x

    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        params,
        distributed.sampling_shardings(mesh, params),
    )
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=by_sample)
    cond = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=by_sample), cond
    )
    time = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    return jax.jit(step, out_shardings=by_sample).lower(_key(), placed, x, cond, time, time)


def _key() -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype)
