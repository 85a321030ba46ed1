"""Layers of one shape, whose parameters no device ever holds for more than one layer.

A network that scans L layers of one shape keeps their parameters as arrays [L, ...] under a key
that begins with `scanned`. On a mesh with an axis `fsdp` such an array is split along an axis of
the layer, never along L, and it is not gathered as a whole. The body of the scan calls
`gather_layer` on its slice instead: the layer is gathered where it is used, forward and again
backward, and its gradient is summed over the devices and split at once. With N devices and P
parameters, a device then holds P / N of them and one layer (ZeRO-3, Rajbhandari et al. 2020).

The mesh is JAX's ambient one, which the training step and `distributed.spread` set by `over`.
Without it `gather_layer` returns what it is given.
"""

import math
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax import lax
from jax.custom_derivatives import linear_call
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P

Array = jax.Array

SCANNED = "scanned"
FSDP = "fsdp"

# Elements below which a split does not pay for its messages. Of the leaves of NCSN++ for CIFAR-10
# two thirds are smaller, biases and norms, and hold 0.2 % of its elements.
MIN_SIZE = 2**12


def is_scanned(path: tuple[Any, ...]) -> bool:
    """Whether a leaf at this key path of a tree has a leading axis of scanned layers."""
    names = (getattr(entry, "key", getattr(entry, "name", None)) for entry in path)
    return any(isinstance(name, str) and name.startswith(SCANNED) for name in names)


def split(shape: tuple[int, ...], parts: int, *, scanned: bool = False) -> P:
    """How an array of this shape is split over `fsdp`, an axis of so many devices.

    It is split along the largest dimension that `parts` divides; along the last one only if `parts`
    divides no other. It is whole on every device if it is small or `parts` divides none. With
    `scanned` the first axis counts layers: it is not split, and neither is a vector of each layer.
    """
    first = int(scanned)
    divisible = [axis for axis in range(first, len(shape)) if shape[axis] % parts == 0]
    too_small = math.prod(shape[first:]) < MIN_SIZE or (scanned and len(shape) < 3)
    if parts == 1 or too_small or not divisible:
        return P()
    # The last axis is the densest in memory: parts of it do not fill a TPU's tiles, and gathering
    # them is a transposition.
    before_last = [axis for axis in divisible if axis < len(shape) - 1]
    largest = max(before_last or divisible, key=lambda axis: (shape[axis], axis))
    return P(*[None] * largest, FSDP)


def gather(leaf: Array, *, whole: Any, parts: Any, dtype: Any) -> Array:
    """Inside jit: an array on the sharding `whole`, its gradient on the sharding `parts`.

    Without it the compiler may as well move the activations, which grow with the batch, to the
    parameters. What is split is rounded to `dtype` on its way, and its gradient is not.
    """
    sent_as = leaf.dtype if parts == whole else dtype

    # The barriers keep the compiler from taking the messages apart, to mix their pieces with those
    # of the products beside them: on a TPU such programs took twice the cycles.
    def forward(_: tuple[()], leaf: Array) -> Array:
        sent = lax.with_sharding_constraint(leaf.astype(sent_as), whole)
        return lax.optimization_barrier(sent).astype(leaf.dtype)

    def backward(_: tuple[()], gradient: Array) -> Array:
        # First the sum over the devices, then each one's part of it, for the same reason; and that
        # at once, not where it is used, so that the sum's memory is free again.
        summed = lax.with_sharding_constraint(gradient, whole)
        part = lax.with_sharding_constraint(summed, parts)
        return part if parts == whole else lax.optimization_barrier(part)

    gathered: Array = linear_call(forward, backward, (), leaf)
    return gathered


def over(mesh: Mesh | AbstractMesh) -> AbstractContextManager[None]:
    """Within this context, scanned layers are gathered over the axis `fsdp` of the mesh.

    It is JAX's ambient mesh, so it is part of what a compiled program is cached by.
    """
    # Only the shape of the mesh: the devices are those of the arrays that the program receives.
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def gather_layer(params: Any, dtype: Any) -> Any:
    """Inside a scan over layers: the parameters of one layer, whole on every device.

    `dtype` is that of the layer's computation, in which what is split travels. Vectors are not
    split.
    """
    devices = jax.sharding.get_abstract_mesh().shape.get(FSDP, 1)

    def whole(leaf: Array) -> Array:
        parts = split((1, *leaf.shape), devices, scanned=True)
        if parts == P():
            return leaf
        return gather(leaf, whole=P(), parts=P(*parts[1:]), dtype=dtype)

    return jax.tree.map(whole, params)
