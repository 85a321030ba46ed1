"""Rotary positions: queries and keys are turned by angles that grow with the token's place.

The features of a head are read as complex numbers, feature 2 j and 2 j + 1 together, and number j
is turned by p w_j, where p is the place of the token and w_j = theta^(-2 j / D). So the product of
a query and a key depends on the difference of their places. With several axes, such as row and
column, each has D features of the head for itself.

Su et al. 2021, "RoFormer: enhanced transformer with rotary position embedding", sec. 3.2.
"""

from collections.abc import Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array
Turns = tuple[np.ndarray, np.ndarray]
"""Cosine and sine of the angle of each token and pair of features, float32 [T, H / 2]."""


def turns(places: np.ndarray, sizes: Sequence[int], theta: float = 10_000.0) -> Turns:
    """The turns of tokens in these places.

    Args:
        places: of the tokens along each axis, [T, axes].
        sizes: the features of a head for each axis, even numbers with the sum H.
        theta: the base of the frequencies.

    Raises ValueError for odd sizes, and where there are not as many sizes as axes.
    """
    if places.shape[1] != len(sizes) or any(size % 2 for size in sizes):
        raise ValueError(f"sizes: {tuple(sizes)} are not {places.shape[1]} even numbers")

    def along(axis: int, size: int) -> np.ndarray:
        return np.outer(places[:, axis], theta ** -(np.arange(0, size, 2) / size))

    angles = np.concatenate([along(axis, size) for axis, size in enumerate(sizes)], axis=1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: Array, by: Turns) -> Array:
    """x [B, T, N, H], turned; computed in float32, of x's dtype.

    Of each pair (a, b), the turned one is cos (a, b) + sin (-b, a). The second is a product with a
    matrix of zeros and ones, so it is exact. To take features apart in pairs, and to put them
    together again, would cost a TPU several times as much.
    """
    cos, sin = (np.repeat(part, 2, axis=-1)[None, :, None] for part in by)
    axes = (((x.ndim - 1,), (0,)), ((), ()))
    other = lax.dot_general(
        x,
        jnp.asarray(_quarter_turn(x.shape[-1]), x.dtype),
        axes,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return (x.astype(jnp.float32) * cos + other * sin).astype(x.dtype)


@lru_cache(maxsize=8)
def _quarter_turn(features: int) -> np.ndarray:
    """The matrix that makes (-b, a) of each pair of features (a, b), [features, features]."""
    return np.kron(np.eye(features // 2), np.array([[0, 1], [-1, 0]])).astype(np.float32)
