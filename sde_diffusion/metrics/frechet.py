"""Distance between two sets of features seen as Gaussians: how far samples are from data."""

import numpy as np
from numpy.typing import ArrayLike


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
    return float(np.sum((mean_x - mean_y) ** 2) + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)


def _moments(name: str, features: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"{name} must be features [N >= 2, D], got shape {features.shape}")
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def _sqrt_psd(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
