"""Copies of tensors against numpy's own transposition and cast."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.pretrained import copying

# The last two are shared out to threads where there are several cores.
KERNELS = [
    (5, 3),
    (70, 300),
    (7, 6, 3),
    (65, 30, 3, 3),
    (130, 9, 1, 1),
    (600, 500),
    (200, 160, 3, 3),
]


def numbers(shape, dtype):
    return np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype)


@pytest.mark.parametrize("shape", KERNELS)
@pytest.mark.parametrize("to", [np.float32, jnp.bfloat16])
def test_a_kernel_is_transposed_and_cast(shape, to):
    kernel = numbers(shape, np.float16)
    wanted = np.moveaxis(kernel, (0, 1), (-1, -2)).astype(to)
    target = copying.empty(wanted.shape, to)
    copying.copy_kernel(kernel, target)
    np.testing.assert_array_equal(target, wanted)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (5, 7), (1031, 517), (2**19 + 1,)])
def test_a_tensor_is_cast(shape):
    tensor = numbers(shape, np.float16)
    target = copying.empty(shape, np.float32)
    copying.copy(tensor, target)
    np.testing.assert_array_equal(target, tensor.astype(np.float32))


@pytest.mark.parametrize("cores", [1, 3])
def test_any_number_of_threads_makes_the_same_copy(cores, monkeypatch):
    monkeypatch.setattr(copying.os, "sched_getaffinity", lambda _: range(cores), raising=False)
    copying._threads.cache_clear()
    try:
        assert (copying._threads() is None) == (cores == 1)
        test_a_kernel_is_transposed_and_cast(KERNELS[-1], np.float32)
        test_a_tensor_is_cast((1031, 517))
    finally:
        copying._threads.cache_clear()


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_an_empty_array_is_used_by_jax_as_it_is(dtype):
    for shape in [(3,), (100, 7), (1000, 1001)]:
        array = copying.empty(shape, dtype)
        assert array.nbytes == math.prod(shape) * np.dtype(dtype).itemsize
        array[...] = 1
        assert jax.device_put(array).unsafe_buffer_pointer() == array.ctypes.data
