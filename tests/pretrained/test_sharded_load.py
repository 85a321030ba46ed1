"""Parameters that are split over devices as they are read, and those of half the bytes."""

import math
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion import distributed
from sde_diffusion.networks.dit_diffusers import DiffusersDiT
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import shapes
from sde_diffusion.pretrained.tensors import names_and_shapes, to_params

DEVICES = 8


@pytest.fixture(scope="module")
def shapes_of_dit():
    network = DiffusersDiT(num_attention_heads=2, attention_head_dim=64, num_layers=3)
    return shapes(KINDS["DiTTransformer2DModel"], network)


@pytest.fixture(scope="module")
def tensors(shapes_of_dit):
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape, np.float32)
        for name, shape in names_and_shapes(shapes_of_dit).items()
    }


def size(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def held(array, device):
    """The bytes of an array on a device."""
    if device not in array.sharding.device_set:
        return 0
    return math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize


def test_no_device_ever_holds_the_whole_model(shapes_of_dit, tensors):
    place = distributed.put_split(distributed.make_mesh(fsdp=DEVICES))
    devices, before = jax.devices()[:DEVICES], {id(array) for array in jax.live_arrays()}
    peaks = dict.fromkeys(devices, 0)

    def put(path, array):
        placed = place(path, array)
        new = [array for array in jax.live_arrays() if id(array) not in before]
        for device in devices:
            peaks[device] = max(peaks[device], sum(held(each, device) for each in new))
        return placed

    params = to_params(shapes_of_dit, tensors, put=put)
    whole = size(params)
    small = 0
    for leaf in jax.tree.leaves(params):
        if leaf.sharding.is_fully_replicated:
            small += leaf.nbytes
        else:
            parts = {part.device: part.data.nbytes for part in leaf.addressable_shards}
            assert parts == dict.fromkeys(devices, leaf.nbytes // DEVICES)
    assert small < 0.05 * whole
    for device in devices:
        share = sum(held(leaf, device) for leaf in jax.tree.leaves(params))
        assert share < 1.4 * whole / DEVICES
        # While they are read a device holds its share and nothing besides.
        assert peaks[device] <= share
    alone = to_params(shapes_of_dit, tensors)
    jax.tree.map(np.testing.assert_array_equal, params, alone)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_host_never_holds_much_more_than_the_parameters(shapes_of_dit, tensors, dtype):
    numbers = sum(tensor.size for tensor in tensors.values())
    tracemalloc.start()  # which counts the memory of numpy's arrays
    try:
        params = to_params(shapes_of_dit, tensors, dtype=dtype)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size(params) == numbers * jnp.dtype(dtype).itemsize
    assert size(params) <= peak < 1.3 * size(params)
