"""The Frechet distance against closed forms, and the laws of a squared distance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from sde_diffusion.metrics import frechet_distance


def with_moments(mean, cov, num=500):
    """Features whose sample mean and unbiased covariance are exactly these."""
    mean, cov = np.atleast_1d(mean), np.atleast_2d(cov)
    noise = np.random.default_rng(0).standard_normal((num, len(mean)))
    noise -= noise.mean(axis=0)
    whitened = np.linalg.solve(np.linalg.cholesky(np.cov(noise.T).reshape(cov.shape)), noise.T)
    return mean + (np.linalg.cholesky(cov) @ whitened).T


@pytest.mark.parametrize(("m1", "s1", "m2", "s2"), [(0, 1, 0, 1), (1, 2, -3, 0.5), (5, 0.1, 5, 7)])
def test_in_one_dimension_it_is_the_sum_of_squared_differences_of_mean_and_std(m1, s1, m2, s2):
    x, y = with_moments(m1, s1**2), with_moments(m2, s2**2)
    assert frechet_distance(x, y) == pytest.approx((m1 - m2) ** 2 + (s1 - s2) ** 2, abs=1e-10)


def test_commuting_covariances_give_the_difference_of_their_square_roots():
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))
    a, b = np.array([1.0, 4.0, 9.0, 0.25]), np.array([4.0, 1.0, 0.01, 1.0])
    x = with_moments(np.zeros(4), turn * a @ turn.T)
    y = with_moments(np.arange(4), turn * b @ turn.T)
    expected = 14 + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_general_covariances_agree_with_the_matrix_square_root_of_their_product():
    a, b = np.random.default_rng(2).standard_normal((2, 5, 5))
    a, b = a @ a.T + np.eye(5), b @ b.T + np.eye(5)
    expected = np.trace(a + b - 2 * sqrtm(a @ b).real)
    x, y = with_moments(np.zeros(5), a), with_moments(np.zeros(5), b)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_dead_features_and_few_samples_leave_it_finite_and_exact():
    rng = np.random.default_rng(3)
    x, shift = np.zeros((10, 50)), np.zeros(50)
    x[:, :20], shift[0] = rng.standard_normal((10, 20)), 3.0
    assert frechet_distance(x, x + shift) == pytest.approx(9.0, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(1e-3, 1e3))
def test_it_is_a_squared_distance(seed, width, unit):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((20, width)), 1 + rng.standard_normal((30, width))
    distance = frechet_distance(x, y)
    assert distance > 0
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(y, x) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(unit * x, unit * y) == pytest.approx(unit**2 * distance, rel=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), "equal widths, got 3 and 4"),
        (np.zeros((1, 3)), np.zeros((2, 3)), r"x must be features .* got shape \(1, 3\)"),
        (np.zeros((2, 3)), np.zeros(3), r"y must be features .* got shape \(3,\)"),
    ],
)
def test_what_is_no_pair_of_feature_sets_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(x, y)
