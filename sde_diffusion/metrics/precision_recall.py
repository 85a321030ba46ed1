"""Precision and recall of samples, and their distance to the nearest datum."""

import numpy as np
from numpy.typing import ArrayLike

from sde_diffusion.metrics.neighbours import nearest, share_near

# Data whose own nearest neighbours are looked for: the time grows as their number times all.
MOST = 2000


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
    return share_near(samples, data, k), share_near(data, samples, k)


def nearest_neighbour_ratio(samples: ArrayLike, data: ArrayLike, seed: int = 0) -> float:
    """median_i min_j |samples_i - data_j| / median_j min_{l != j} |data_j - data_l|.

    Near 1, a sample is as far from the data as a new datum is; near 0, the data was copied. The
    second median is over at most `MOST` data, drawn at random by `seed`, each against all others.

    Args:
        samples, data: [N, *event] and [M, *event]; events are compared as flat vectors.

    Raises:
        ValueError: half of the data or more have an equal among the others: the ratio has no
            value.
    """
    samples, data = (_flat(rows) for rows in (samples, data))
    within = np.median(_within(data, seed))
    if not within > 0:
        raise ValueError("half of the data or more have an equal among the others")
    return float(np.median(nearest(samples, data)) / within)


def _within(data: np.ndarray, seed: int) -> np.ndarray:
    if len(data) <= MOST:
        return nearest(data, data)
    rows = np.random.default_rng(seed).permutation(len(data))[:MOST]
    # A datum is at distance zero from itself; its second neighbour is the nearest other one.
    return nearest(data[rows], data, 2)


def _flat(rows: ArrayLike) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows.reshape(len(rows), -1)
