"""What lies where on the mesh.

- A batch: its samples are spread over all the devices.
- Parameters, and what has their shapes (gradients, the optimizer's moments, averages): leaf by leaf
  over `fsdp`, along the largest dimension that it divides, the last one only where it divides no
  other; whole on every device where it divides none, or where the leaf is too small for the split
  to pay for its messages.

This is ZeRO-3 (Rajbhandari et al. 2020) by the compiler's means: parameters are gathered where they
are used, gradients are summed, and each device keeps and updates its own part. Until then a
gradient is whole on every device, as libtpu 0.0.52 has it also where a sum into the parts is asked.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sde_diffusion.distributed.mesh import AXES, FSDP, check_batch_size
from sde_diffusion.model import Model

# Elements. Of the leaves of NCSN++ for CIFAR-10 two thirds are smaller, biases and norms, and hold
# 0.2 % of its elements.
MIN_SIZE = 2**12


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def shard_samples(mesh: Mesh) -> NamedSharding:
    """An array [B, ...] with its samples spread over all the devices."""
    return NamedSharding(mesh, P(AXES))


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """The sharding of every leaf of a tree of arrays or of their shapes, by the rule above."""
    parts = mesh.shape[FSDP]
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf.shape, parts)), state)


def _spec(shape: tuple[int, ...], parts: int) -> P:
    divisible = [axis for axis, dimension in enumerate(shape) if dimension % parts == 0]
    if parts == 1 or math.prod(shape) < MIN_SIZE or not divisible:
        return P()
    # The last one lies densest in memory, where parts of it do not fill a TPU's tiles and gathering
    # them is a transposition.
    before_last = [axis for axis in divisible if axis < len(shape) - 1]
    largest = max(before_last or divisible, key=lambda axis: (shape[axis], axis))
    return P(*[None] * largest, FSDP)


def gather(params: Any, shardings: Any, whole: NamedSharding, *, dtype: str = "float32") -> Any:
    """Inside jit: the parameters on `whole`, their gradients on `shardings`.

    Without it the compiler may as well move the activations, which grow with the batch, to the
    parameters. What is split is rounded to `dtype` on its way, and its gradient is not.
    """

    def whole_leaf(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
        sent = leaf if sharding == whole else leaf.astype(dtype)
        # The barrier keeps the compiler from taking the message apart, to mix its pieces with those
        # of the product that follows: on a TPU such programs took twice the cycles.
        sent = lax.optimization_barrier(lax.with_sharding_constraint(sent, whole))
        return sent.astype(leaf.dtype)

    @jax.custom_vjp
    def gathered(params: Any) -> Any:
        return jax.tree.map(whole_leaf, params, shardings)

    def backward(_: None, grads: Any) -> tuple[Any]:
        # First the sum over the devices, then each one's part of it, for the same reason; and that
        # at once, not where it is used, so that the sum's memory is free again.
        summed = lax.with_sharding_constraint(grads, whole)
        parts = lax.with_sharding_constraint(summed, shardings)

        def at_once(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
            return leaf if sharding == whole else lax.optimization_barrier(leaf)

        return (jax.tree.map(at_once, parts, shardings),)

    gathered.defvjp(lambda params: (gathered(params), None), backward)
    return gathered(params)


def spread(model: Model, mesh: Mesh) -> Model:
    """The model, with samples x [B, *event] and their conditions spread over the devices.

    So is then all that a solver or a likelihood computes between its calls. B must be a multiple of
    the number of devices.
    """
    return Model(model.sde, _spread_over(shard_samples(mesh)), model)


@functools.cache  # the same function for the same devices, which does not retrace
def _spread_over(by_sample: NamedSharding) -> Callable[..., Any]:
    def call(model: Model, sde: Any, x: jax.Array, t: jax.Array, cond: Any) -> Any:
        if len(x) > 1:  # a single sample, inside a map over the samples, is nowhere in particular
            x, cond = lax.with_sharding_constraint((x, cond), by_sample)
        return model(x, t, cond)

    return call


def place_batches(mesh: Mesh, batches: Any) -> Any:
    """This process's share of K batches, leaves [K, B / processes, ...], as global [K, B, ...].

    Raises ValueError when B does not divide over the devices.
    """
    by_sample = NamedSharding(mesh, P(None, AXES))
    share = jax.tree.leaves(batches)[0].shape[1]
    check_batch_size(mesh, share * jax.process_count())
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(by_sample, leaf), batches
    )
