"""How arrays are sharded over the mesh.

- A batch: its samples are split over all the devices.
- Parameters, and arrays of their shapes (gradients, the optimizer's moments, averages): each leaf
  is split over `fsdp` by `layerwise.split`.

This is ZeRO-3 (Rajbhandari et al. 2020), carried out by the compiler: parameters are gathered where
they are used, gradients are summed, and each device keeps and updates its own part. Before it is
split, a gradient is complete on every device: libtpu 0.0.52 sums it that way even if the program
asks for a reduce-scatter.

Scanned layers are gathered one at a time, by the network itself (see `layerwise`). All other
parameters, such as those of a U-Net, are gathered at once: if they fit, fewer and larger messages
are faster.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sde_diffusion import layerwise
from sde_diffusion.distributed.mesh import AXES, FSDP, check_batch_size
from sde_diffusion.model import Model


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is complete on every device."""
    return NamedSharding(mesh, P())


def shard_samples(mesh: Mesh) -> NamedSharding:
    """The sharding of an array [B, ...] whose samples are split over all the devices."""
    return NamedSharding(mesh, P(AXES))


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """The sharding in training of every leaf of a tree of arrays or shapes."""

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        scanned = layerwise.is_scanned(path)
        return NamedSharding(mesh, layerwise.split(leaf.shape, mesh.shape[FSDP], scanned=scanned))

    return jax.tree_util.tree_map_with_path(sharding, state)


def sampling_shardings(mesh: Mesh, params: Any) -> Any:
    """The sharding in sampling of every parameter.

    Scanned layers are split as in training, and gathered one at a time in every evaluation. All
    other parameters are replicated.
    """

    def sharding(path: tuple[Any, ...], split: NamedSharding) -> NamedSharding:
        return split if layerwise.is_scanned(path) else replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, state_shardings(mesh, params))


def put_split(mesh: Mesh) -> Callable[[tuple[str, ...], Any], jax.Array]:
    """put(path, array): an array of the host, split over the mesh as parameters are in training.

    The path is that of the array in a tree of dicts. Each device is sent its own part, so that none
    ever holds more of the array.
    """

    def put(path: tuple[str, ...], array: Any) -> jax.Array:
        scanned = layerwise.is_scanned(tuple(map(jax.tree_util.DictKey, path)))
        parts = layerwise.split(array.shape, mesh.shape[FSDP], scanned=scanned)
        return jax.device_put(array, NamedSharding(mesh, parts))

    return put


def gather(params: Any, shardings: Any, whole: NamedSharding, *, dtype: str = "float32") -> Any:
    """Inside jit: the parameters with the sharding `whole`, their gradients with `shardings`.

    See `layerwise.gather`. Scanned layers stay split, because the network gathers them itself.
    """

    def gathered(path: tuple[Any, ...], leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
        if layerwise.is_scanned(path):
            return leaf
        return layerwise.gather(leaf, whole=whole, parts=sharding, dtype=dtype)

    return jax.tree_util.tree_map_with_path(gathered, params, shardings)


def spread(model: Model, mesh: Mesh) -> Model:
    """The same model, which splits samples x [B, *event] and their conditions over the devices.

    The compiler then also splits what a solver or a likelihood computes between two calls. B must
    be a multiple of the number of devices. If the parameters have `sampling_shardings`, the model's
    scanned layers are gathered one at a time in every call.
    """
    by_sample = shard_samples(mesh)
    mapping = None if model.mapping is None else _map_over(by_sample)
    return Model(model.sde, _spread_over(by_sample), model, mapping)


@functools.cache  # the same function object for the same mesh, so that nothing is traced again
def _spread_over(by_sample: NamedSharding) -> Callable[..., Any]:
    def call(model: Model, sde: Any, x: jax.Array, t: jax.Array, cond: Any) -> Any:
        x, cond = _over(by_sample, x, cond)
        with layerwise.over(by_sample.mesh):
            return model(x, t, cond)

    return call


@functools.cache
def _map_over(by_sample: NamedSharding) -> Callable[..., Any]:
    def call(model: Model, sde: Any, x: jax.Array, t: jax.Array, s: jax.Array, cond: Any) -> Any:
        x, cond = _over(by_sample, x, cond)
        with layerwise.over(by_sample.mesh):
            return model.flow_map(x, t, s, cond)

    return call


def _over(by_sample: NamedSharding, x: jax.Array, cond: Any) -> tuple[jax.Array, Any]:
    if len(x) == 1:  # a single sample, inside a map over the samples, is nowhere in particular
        return x, cond
    constrained: tuple[jax.Array, Any] = lax.with_sharding_constraint((x, cond), by_sample)
    return constrained


def place_batches(mesh: Mesh, batches: Any) -> Any:
    """Global arrays [K, B, ...] of K batches, from this process's share [K, B / processes, ...].

    Raises ValueError if B is not a multiple of the number of devices.
    """
    by_sample = NamedSharding(mesh, P(None, AXES))
    share = jax.tree.leaves(batches)[0].shape[1]
    check_batch_size(mesh, share * jax.process_count())
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(by_sample, leaf), batches
    )
