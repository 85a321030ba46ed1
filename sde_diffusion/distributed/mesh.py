"""The mesh: every device of every host, in two axes.

A batch is split over both axes. Along `data` the parameters are replicated; along `fsdp` (fully
sharded data parallelism) each device keeps a part of them, by the rule in `sharding`.

A slice is a group of devices with a fast network; slices are connected by a slow one. The `fsdp`
axis always lies within a slice, so that only gradients travel between slices.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sde_diffusion.layerwise import FSDP

DATA = "data"
AXES = (DATA, FSDP)
# The size of `fsdp` if it is not given. A sixteenth of the state is small beside the activations,
# and the widths of networks are multiples of 16.
PARTS = 16


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    slices: int = -1,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh of `data` x `fsdp` devices: all devices of all hosts, unless `devices` are given.

    A size of -1 is the number of devices divided by the other size. With both -1, `fsdp` is 16, or
    the largest smaller power of two that divides a slice. `slices` is the number of slices that the
    devices must report; with -1 any number of TPU slices is accepted, and other devices count as
    one slice. Raises ValueError if data x fsdp is not the number of devices, or if `fsdp` does not
    divide the size of a slice.
    """
    # Host by host, so that part h of a batch belongs to host h. On a TPU jax.devices() follows the
    # torus, in which hosts alternate. The hosts of a slice are adjacent.
    ordered = sorted(
        jax.devices() if devices is None else devices,
        key=lambda device: (_slice(device), device.process_index, device.id),
    )
    found = Counter(map(_slice, ordered))
    if data == fsdp == -1:
        fsdp = math.gcd(PARTS, *found.values())
    sizes = _fill(data, fsdp, len(ordered))
    if slices != -1 or ordered[0].platform == "tpu":
        _check_slices(found, sizes[1], slices)
    return Mesh(np.array(ordered).reshape(sizes), AXES)


def _slice(device: Any) -> int:
    return getattr(device, "slice_index", 0)


def _check_slices(found: Counter[int], fsdp: int, slices: int) -> None:
    """Raises ValueError for another number of slices, or one whose size `fsdp` does not divide."""
    if slices not in (-1, len(found)):
        raise ValueError(
            f"mesh.slices: {slices}, but the devices form {len(found)} (-1 accepts any number)"
        )
    for size in found.values():
        if size % fsdp:
            raise ValueError(f"mesh.fsdp: {fsdp} does not divide the {size} devices of a slice")


def _fill(data: int, fsdp: int, num: int) -> tuple[int, int]:
    for name, size in {DATA: data, FSDP: fsdp}.items():
        if size < 1 and size != -1:
            raise ValueError(f"mesh.{name}: {size} is neither at least 1 nor -1 (the rest)")
    for name, size in {DATA: data, FSDP: fsdp}.items():
        if num % size:
            raise ValueError(f"mesh.{name}: {size} does not divide the {num} devices")
    data, fsdp = (num // fsdp if data == -1 else data), (num // data if fsdp == -1 else fsdp)
    if data * fsdp != num:
        raise ValueError(
            f"mesh: data {data} x fsdp {fsdp} is {data * fsdp} devices, but there are {num} "
            "(-1 for the rest)"
        )
    return data, fsdp


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
    """Raises ValueError unless the batch divides evenly over the devices of the mesh."""
    if batch_size % mesh.size:
        raise ValueError(
            f"batch_size: {batch_size} is not a multiple of the {mesh.size} devices of the mesh"
        )
