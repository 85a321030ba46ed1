"""Dropout whose random bits cost next to nothing.

Threefry, JAX's generator, takes about 120 operations an element, and a TPU draws the bits again
wherever the mask is used: in the convolution and in both of its gradients. Of a residual block of
NCSN++ that was a quarter of its time. A mask needs much less than that: here an element is kept by
a hash of its index, of 13 operations, with seeds that threefry draws once.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array


def dropout(key: Array, x: Array, rate: float) -> Array:
    """x / (1 - rate) where an element of x [B, ...] is kept, with probability 1 - rate, else 0.

    It does not depend on how the samples are spread over devices. The quotient is rounded once: in
    bfloat16 itself a rate of 0.1 would be 0.1016.
    """
    samples, size = x.shape[0], x.size // x.shape[0]
    row, column = (lax.broadcasted_iota(jnp.uint32, (samples, size), axis) for axis in (0, 1))
    bits = _hash(row * np.uint32(size) + column, jax.random.bits(key, (2,), jnp.uint32))
    kept = (bits >= np.uint32(rate * 2**32)).reshape(x.shape)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.where(kept, wide / (1 - rate), 0).astype(x.dtype)


def _hash(x: Array, seeds: Array) -> Array:
    """uint32 -> uint32, another bijection for each pair of seeds.

    Wellons 2018, "Prospecting for hash functions" (nullprogram.com/blog/2018/07/31), triple32. With
    two multiplications instead of three, elements 2^14 apart were visibly dependent; with a seed
    before the first one alone, two masks could be parts of one sequence.
    """
    x ^= seeds[0]
    x = (x ^ x >> 17) * np.uint32(0xED5AD4BB)
    x = (x ^ x >> 11) * np.uint32(0xAC4C1B51) + seeds[1]
    x = (x ^ x >> 15) * np.uint32(0x31848BAB)
    return x ^ x >> 14
