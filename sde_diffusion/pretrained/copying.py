"""Copies of tensors into new arrays, cast and transposed in one pass.

Most of the cost of loading is this pass and the memory that it touches. So:

- A kernel [out, in, *window] becomes [*window, in, out]. Taken in order, every number would lie in
  another line of the cache than the one before it. It is copied in blocks that a cache holds.
- On a CPU, JAX uses an array that begins at a multiple of 64 bytes as it is, and copies any other.
- From 4 MiB on numpy asks the system for huge pages, which it may have to make by moving others:
  2 s for a GiB were seen, for 0.3 s without. A private mapping asks for none.
- numpy copies without Python's lock, so threads share the blocks of a large tensor.
"""

import math
import mmap
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np

ALIGNMENT, LARGE = 64, 2**22  # bytes
# Of a block, which is 1 MiB in float32: numbers along `out`, and along `in` and the window.
ROWS, COLUMNS = 2048, 128
SHARED = 2**18  # numbers of a tensor from which on threads share it


def empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array that `jax.device_put` uses as it is on a CPU; it must not be changed after that."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size >= LARGE and hasattr(mmap, "MAP_PRIVATE"):
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return np.frombuffer(pages, dtype).reshape(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def copy(tensor: np.ndarray, target: np.ndarray) -> None:
    """Set target to the tensor, of the same shape, cast to target's dtype."""
    rows = max(1, SHARED * len(tensor) // tensor.size) if tensor.ndim and tensor.size else 1

    def copy_rows(start: int) -> None:
        target[start : start + rows] = tensor[start : start + rows]

    if tensor.size <= SHARED:
        target[...] = tensor
    else:
        _share(copy_rows, range(0, len(tensor), rows), tensor.size)


def copy_kernel(kernel: np.ndarray, target: np.ndarray) -> None:
    """Set target [*window, in, out] to the kernel [out, in, *window], cast to target's dtype."""
    features, channels, *window = kernel.shape
    pixels = math.prod(window)
    theirs = kernel.reshape(features, channels, pixels)
    ours = target.reshape(pixels, channels, features)
    size = max(1, COLUMNS // pixels)

    def copy_channels(start: int) -> None:
        for row in range(0, features, ROWS):
            block = theirs[row : row + ROWS, start : start + size]
            into = ours[:, start : start + size, row : row + ROWS]
            if pixels == 1:
                into[0] = block[:, :, 0].T
                continue
            # A matrix is transposed first, in the cache; then long runs of numbers are copied.
            columns = np.empty((block.shape[1] * pixels, len(block)), target.dtype)
            columns[...] = block.reshape(len(block), -1).T
            into[...] = columns.reshape(-1, pixels, len(block)).swapaxes(0, 1)

    _share(copy_channels, range(0, channels, size), kernel.size)


def _share(function: Callable[[int], None], numbers: range, size: int) -> None:
    """Call the function with each of the numbers, in threads where the tensor is large."""
    pool = _threads() if size >= SHARED else None
    for _ in map(function, numbers) if pool is None else pool.map(function, numbers):
        pass


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor | None:
    """Threads for the cores that this process may use; None for one."""
    size = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(size, "copy") if size > 1 else None
