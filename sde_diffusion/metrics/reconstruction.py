"""How near reconstructions are to their images: PSNR and SSIM.

    PSNR = 10 log10(L^2 / MSE),  L = high - low
    SSIM = (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2))

with means m, variances s^2 and covariance s_xy under a Gaussian window of 11 x 11 pixels and
standard deviation 1.5, C1 = (0.01 L)^2 and C2 = (0.03 L)^2; the mean over all windows that lie
within the image, and over the channels.

Wang, Bovik, Sheikh & Simoncelli 2004, "Image quality assessment: from error visibility to
structural similarity".
"""

import numpy as np
from numpy.typing import ArrayLike

WINDOW, DEVIATION = 11, 1.5
# An error of less than rounding to 256 values makes counts as that: PSNR is finite, at most 58.9.
LEAST = 1.0 / (255.0**2 * 12.0)


def psnr(images: ArrayLike, others: ArrayLike, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """The peak signal-to-noise ratio in decibels of each pair of images [N, *event], [N]."""
    x, y = _scaled(images, others, low, high)
    error = ((x - y) ** 2).reshape(len(x), -1).mean(axis=1)
    return -10.0 * np.log10(np.maximum(error, LEAST))


def ssim(images: ArrayLike, others: ArrayLike, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """The structural similarity of each pair of images [N, H, W, C], [N]; 1 for equal ones.

    Images of fewer than 11 pixels on a side have a smaller window, of the largest odd size that
    fits.
    """
    x, y = _scaled(images, others, low, high)
    if x.ndim != 4:
        raise ValueError(f"SSIM is of images [N, H, W, C], got {x.shape}")
    size = min(WINDOW, *x.shape[1:3])
    window = _window(size - 1 + size % 2)
    mean_x, mean_y = _filtered(x, window), _filtered(y, window)
    var_x = _filtered(x * x, window) - mean_x**2
    var_y = _filtered(y * y, window) - mean_y**2
    cov = _filtered(x * y, window) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2.0 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2.0 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).reshape(len(x), -1).mean(axis=1)


def _scaled(
    images: ArrayLike, others: ArrayLike, low: float, high: float
) -> tuple[np.ndarray, np.ndarray]:
    x, y = ((np.asarray(a, np.float64) - low) / (high - low) for a in (images, others))
    if x.shape != y.shape:
        raise ValueError(f"images of shape {x.shape} and others of shape {y.shape}")
    return x, y


def _window(size: int) -> np.ndarray:
    at = np.arange(size) - (size - 1) / 2
    window = np.exp(-0.5 * (at / DEVIATION) ** 2)
    return window / window.sum()


def _filtered(x: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Weighted means under the window at each place where it is inside, [N, H', W', C]."""
    for axis in (1, 2):
        size = x.shape[axis] - len(window) + 1
        x = sum(
            weight * np.take(x, np.arange(k, k + size), axis=axis)
            for k, weight in enumerate(window)
        )
    return x
