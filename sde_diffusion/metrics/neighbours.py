"""Distances to nearest neighbours, by brute force in blocks of bounded memory."""

from collections.abc import Iterator

import numpy as np
from scipy.spatial.distance import cdist

# Distances that are held at once, 128 MiB of float64.
BLOCK = 2**24


def nearest(points: np.ndarray, support: np.ndarray, k: int = 1) -> np.ndarray:
    """The distance from each of `points` to its k-th nearest row of `support`, [N].

    Args:
        points, support: [N, D] and [M, D]. Where both are the same array, a row is no neighbour
            of itself.
        k: from 1 to M, or to M - 1 where both are the same array.
    """
    same = points is support
    centre = support.mean(axis=0)
    a, b = points - centre, support - centre
    squares = np.sum(b**2, axis=1)
    distances = np.empty(len(a))
    for rows in _blocks(len(a), len(b)):
        # |a - b|^2 up to |a|^2, as a matrix product. Its rounding hides small distances, so it
        # chooses the neighbours and does not measure them.
        order = squares - 2 * a[rows] @ b.T
        if same:
            order[np.arange(len(order)), np.arange(rows.start, rows.stop)] = np.inf
        chosen = np.argpartition(order, k - 1, axis=1)[:, :k]
        for i, row in enumerate(range(rows.start, rows.stop)):
            exact = np.linalg.norm(support[chosen[i]] - points[row], axis=1)
            distances[row] = exact.max()
    return distances


def share_near(points: np.ndarray, support: np.ndarray, k: int) -> float:
    """The share of `points` [N, D] that lie in the ball of k neighbours of a row of `support`."""
    radii = nearest(support, support, k)
    inside = [
        (cdist(points[rows], support) <= radii).any(axis=1)
        for rows in _blocks(len(points), len(support))
    ]
    return float(np.concatenate(inside).mean())


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, BLOCK // columns)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
