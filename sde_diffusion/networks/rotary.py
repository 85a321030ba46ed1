"""Rotary positions: queries and keys are turned by angles that grow with the token's place.

The features of a head are read as complex numbers, feature 2 j and 2 j + 1 together, and number j
is turned by p w_j, where p is the place of the token and w_j = theta^(-2 j / D). So the product of
a query and a key depends on the difference of their places. With several axes, such as row and
column, each has D features of the head for itself.

Su et al. 2021, "RoFormer: enhanced transformer with rotary position embedding", sec. 3.2.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

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
    """x [B, T, N, H], turned; computed in float32, of x's dtype."""
    cos, sin = (part[None, :, None] for part in by)
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    real, imaginary = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([real * cos - imaginary * sin, imaginary * cos + real * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
