"""Precision and recall of samples, and their distance to the nearest datum."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors


def precision_recall(samples: ArrayLike, data: ArrayLike, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall: the shares of samples near data, and of data near samples.

    f(a, B) = 1 if |a - b| <= r_k(b) for some b in B, else 0, with r_k(b) the distance from b to
    its k-th nearest neighbour in B, itself left out. Precision is the mean of f(sample, data): how
    good the samples are. Recall is the mean of f(datum, samples): how much of the data's variety
    they cover. Kynkäänniemi et al. 2019.

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
    samples, data = np.asarray(samples, np.float64), np.asarray(data, np.float64)
    neighbours = NearestNeighbors(n_neighbors=1).fit(data.reshape(len(data), -1))
    to_data, _ = neighbours.kneighbors(samples.reshape(len(samples), -1))
    within_data, _ = neighbours.kneighbors()  # called without points, it leaves each out of its own
    return float(np.median(to_data) / np.median(within_data))


def _share_within(points: np.ndarray, support: np.ndarray, k: int) -> float:
    """The share of `points` within the balls of k-th neighbour radius around `support`."""
    radii = NearestNeighbors(n_neighbors=k).fit(support).kneighbors()[0][:, -1]
    chunks = pairwise_distances_chunked(
        points, support, reduce_func=lambda distances, _: (distances <= radii).any(axis=1)
    )
    return float(np.concatenate(list(chunks)).mean())
