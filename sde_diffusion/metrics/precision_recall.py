"""Precision and recall of samples, and their distance to the nearest datum."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors


def precision_recall(samples: ArrayLike, data: ArrayLike, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall: f(phi, Phi) = 1 if |phi - phi'| <= r_k(phi') for a phi' in Phi.

    r_k(phi') is the distance from phi' to its k-th nearest neighbour in Phi, itself left out.
    Precision is the mean of f(sample, data): the share of samples within the data's support, so
    how good they look. Recall is the mean of f(datum, samples): the share of the data within the
    samples' support, so how much of its variety they cover. Kynkäänniemi et al. 2019, eqs. 1-2.

    Args:
        samples, data: features [N, D] and [M, D]; N, M > k.
        k: neighbours that set the radius; the paper's choice is 3.

    Returns:
        (precision, recall), each in [0, 1].

    Raises:
        ValueError: k < 1, or a set has k rows or fewer.
    """
    samples, data = np.asarray(samples, np.float64), np.asarray(data, np.float64)
    if not 1 <= k < min(len(samples), len(data)):
        raise ValueError(
            f"k must be at least 1 and less than either set's size "
            f"({len(samples)} samples, {len(data)} data), got {k}"
        )
    return _share_within(samples, data, k), _share_within(data, samples, k)


def nearest_neighbour_ratio(samples: ArrayLike, data: ArrayLike) -> float:
    """median_i min_j |samples_i - data_j| / median_j min_{l != j} |data_j - data_l|.

    Near 1, a sample is as far from the data as a new datum is; near 0, the data was copied.

    Args:
        samples, data: [N, *event] and [M, *event]; events are compared as flat vectors.
    """
    samples, data = (np.reshape(a, (len(a), -1)).astype(np.float64) for a in (samples, data))
    neighbours = NearestNeighbors(n_neighbors=1).fit(data)
    to_data, _ = neighbours.kneighbors(samples)
    within_data, _ = neighbours.kneighbors()  # without an argument each point is left out itself
    return float(np.median(to_data) / np.median(within_data))


def _share_within(points: np.ndarray, support: np.ndarray, k: int) -> float:
    """The share of `points` within the balls of k-th neighbour radius around `support`."""
    radii = NearestNeighbors(n_neighbors=k).fit(support).kneighbors()[0][:, -1]
    chunks = pairwise_distances_chunked(
        points, support, reduce_func=lambda distances, _: (distances <= radii).any(axis=1)
    )
    return float(np.concatenate(list(chunks)).mean())
