"""Distance between two sets of features seen as Gaussians: how far samples are from data."""

import numpy as np
from numpy.typing import ArrayLike

from sde_diffusion.metrics.threads import one_thread


def frechet_distance(x: ArrayLike, y: ArrayLike) -> float:
    """d^2 = |m_x - m_y|^2 + Tr(C_x + C_y - 2 (C_x C_y)^(1/2)) of two sets of features.

    m and C are the mean and the unbiased covariance of each set: the squared Wasserstein-2
    distance between two Gaussians (Dowson & Landau 1982), and the "FID" of Heusel et al. 2017
    where the features are Inception's. It is biased upwards by a term that falls as 1/N, so two
    values compare only at like numbers of samples.

    Args:
        x, y: features [N, D] and [M, D]; N, M >= 2.

    Returns:
        The squared distance, in squared units of the features, computed in float64.

    Raises:
        ValueError: a set is not a matrix of at least two rows, or the widths differ.
    """
    (mean_x, cov_x), (mean_y, cov_y) = _moments("x", x), _moments("y", y)
    if mean_x.shape != mean_y.shape:
        raise ValueError(f"x and y must have equal widths, got {mean_x.size} and {mean_y.size}")
    # With A = C_x^(1/2), Tr (C_x C_y)^(1/2) is the sum of the singular values of C_y^(1/2) A.
    # It needs no square root of a product, which is not symmetric and, when features are dead or
    # fewer samples than features are given, singular: scipy's sqrtm then returns complex numbers.
    cross = np.linalg.svd(_sqrt_psd(cov_y) @ _sqrt_psd(cov_x), compute_uv=False).sum()
    spread = np.trace(cov_x) + np.trace(cov_y) - 2 * cross
    return max(0.0, float(np.sum((mean_x - mean_y) ** 2) + spread))  # rounding may fall below zero


def frechet_between_halves(
    features: ArrayLike,
    seed: int,
    labels: ArrayLike | None = None,
    splits: int = 100,
    most: int | None = None,
    samples: ArrayLike | None = None,
) -> float:
    """The Frechet distance between two disjoint random parts of a set of features, over splits.

    One split is no yardstick: on the digits it varies by 40 %, mostly with the share of each class
    that falls on either side; the mean over 100 varies by 4 %.

    Args:
        features: [N, D].
        seed: of the splits.
        labels: [N]; where given, both parts hold as many rows of each class, rounded down.
        splits: how many are averaged.
        most: rows of a part; half of all where that is fewer, or where it is not given. The
            distance is biased upwards by a term that falls as one over the number of rows, so a
            yardstick for N samples is made of parts of N.
        samples: [N, D], of which one of the two parts is taken instead. Row i is of the same kind
            as row i of the features, such as one caption. With the same seed the splits are those
            of the yardstick, and its bias is the same: samples like the data have its distance.

    Raises:
        ValueError: a part has fewer than two rows, or samples have another shape.
    """
    features = np.asarray(features)
    first = features if samples is None else np.asarray(samples)
    if first.shape != features.shape:
        raise ValueError(f"samples {first.shape} and features {features.shape} differ in shape")
    rng = np.random.default_rng(seed)
    share = 0.5 if most is None else min(0.5, most / len(features))
    if labels is None:
        groups = [np.arange(len(features))]
    else:
        groups = [np.flatnonzero(labels == each) for each in np.unique(labels)]
    sizes = [int(share * len(group)) for group in groups]

    def split() -> float:
        orders = [rng.permutation(group) for group in groups]
        pairs = list(zip(orders, sizes, strict=True))
        a = np.concatenate([order[:size] for order, size in pairs])
        b = np.concatenate([order[size : 2 * size] for order, size in pairs])
        return frechet_distance(first[a], features[b])

    if sum(sizes) < 2:
        raise ValueError(f"two parts of {len(features)} data have fewer than two rows each")
    with one_thread():
        return float(np.mean([split() for _ in range(splits)]))


def _moments(name: str, features: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"{name} must be features [N >= 2, D], got shape {features.shape}")
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def _sqrt_psd(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
