"""Winograd's minimal filtering F(4, 3) along rows: a 3x3 convolution with half the multiplications.

Four neighbouring outputs of a filter of three taps come from six products instead of twelve:

    y = A^T [ (G k) * (B^T d) ],   d six inputs, k three taps, y four outputs, * element by element.

Here an element of the product is a convolution along the columns, over all channels. Its rounding
error is about three times that of the direct sum. Lavin & Gray 2016, "Fast algorithms for
convolutional neural networks".
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Array = jax.Array

B_T = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
A_T = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)


def convolve_rows(
    x: Array, kernel: Array, padding: tuple[int, int], convolve: Callable[[Array, Array], Array]
) -> Array:
    """x [B, H, W, C] * kernel [h, 3, C, features] -> [B, H', W', features], W' a multiple of 4.

    padding is that of W. convolve(x, kernel) convolves along H, with kernels [h, 1, C, features].
    """
    batch, height, width, channels = x.shape
    low, high = padding
    tiles = (width + low + high - 2) // 4
    # A tile of six starts at every fourth column; two more columns make the last block full.
    blocks = jnp.pad(x, ((0, 0), (0, 0), (low, high + 2), (0, 0)))
    blocks = blocks.reshape(batch, height, tiles + 1, 4, channels)
    columns = [blocks[:, :, i // 4 : i // 4 + tiles, i % 4] for i in range(6)]
    inputs = _combine(B_T, columns)
    kernels = _combine(G, [kernel[:, i : i + 1] for i in range(3)])
    products = [convolve(*pair) for pair in zip(inputs, kernels, strict=True)]
    y = jnp.stack(_combine(A_T, products), axis=3)
    return y.reshape(batch, y.shape[1], 4 * tiles, -1)


def _combine(matrix: Sequence[Sequence[float]], parts: Sequence[Array]) -> list[Array]:
    """The matrix times the parts, without the terms that are zero."""
    terms = ([c * p for c, p in zip(row, parts, strict=True) if c] for row in matrix)
    return [functools.reduce(jnp.add, row) for row in terms]
