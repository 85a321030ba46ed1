"""PSNR and SSIM against their definitions, written out for one window."""

import numpy as np
import pytest

from sde_diffusion.metrics import psnr, ssim

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(3, 16, 13, 2))
Y = np.clip(X + 0.1 * RNG.standard_normal(X.shape), 0, 1)


def test_psnr_is_of_the_mean_squared_error():
    flat = np.full((2, 4, 4, 1), 100.0)
    made = psnr(flat, flat + 25.5, 0, 255)
    np.testing.assert_allclose(made, 20.0)
    assert (psnr(flat, flat, 0, 255) < 60).all()


def test_ssim_is_the_mean_over_windows_of_its_formula():
    grid = np.arange(11) - 5
    weights = np.exp(-(grid[:, None] ** 2 + grid[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for row in range(16 - 10):
        for column in range(13 - 10):
            for channel in range(2):
                at = np.s_[1, row : row + 11, column : column + 11, channel]
                x, y = X[at].ravel(), Y[at].ravel()
                m = weights.ravel() @ x, weights.ravel() @ y
                cov = np.cov(x, y, aweights=weights.ravel(), ddof=0)
                top = (2 * m[0] * m[1] + 1e-4) * (2 * cov[0, 1] + 9e-4)
                bottom = (m[0] ** 2 + m[1] ** 2 + 1e-4) * (cov[0, 0] + cov[1, 1] + 9e-4)
                values.append(top / bottom)
    assert ssim(X, Y)[1] == pytest.approx(np.mean(values), rel=1e-9)


def test_ssim_of_equal_images_is_1_in_any_units():
    np.testing.assert_allclose(ssim(X, X), 1.0)
    np.testing.assert_allclose(ssim(255 * X - 3, 255 * Y - 3, -3, 252), ssim(X, Y), rtol=1e-9)
    np.testing.assert_allclose(ssim(X[:, :4, :4], X[:, :4, :4]), 1.0)  # a smaller window


def test_shapes_must_fit():
    with pytest.raises(ValueError, match="shape"):
        psnr(X, X[:2])
    with pytest.raises(ValueError, match="images"):
        ssim(X[..., 0], X[..., 0])
