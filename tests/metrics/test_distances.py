"""Distances between samples against closed forms, scipy, and the laws of a distance."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sde_diffusion.metrics import DISTANCES, floor, interval, kl, rms
from sde_diffusion.metrics.distances import (
    BLOCK,
    covariance_error,
    energy_distance,
    mean_error,
    mmd,
    sliced_wasserstein,
    wasserstein2,
)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def quantiles(num):
    """A standard normal sample without chance: the middles of num equal shares."""
    return stats.norm.ppf((np.arange(num) + 0.5) / num)[:, None]


class TestEveryDistance:
    @settings(max_examples=10)
    @given(st.integers(0, 1000), st.integers(1, 4))
    @pytest.mark.parametrize("name", DISTANCES)
    def test_is_zero_from_a_set_to_itself_in_any_order(self, name, seed, dimension):
        x = normal(seed, 20, dimension)
        assert DISTANCES[name](x, x[::-1], seed) == pytest.approx(0, abs=1e-6)

    @settings(max_examples=10)
    @given(st.integers(0, 1000), st.integers(1, 4), st.integers(2, 30))
    @pytest.mark.parametrize("name", sorted(set(DISTANCES) - {"mmd"}))
    def test_is_symmetric_and_positive(self, name, seed, dimension, num):
        x, y = normal(seed, 20, dimension), normal(seed + 1, num, dimension) + 0.5
        distance = DISTANCES[name](x, y, seed)
        assert distance > 0
        assert DISTANCES[name](y, x, seed) == pytest.approx(distance, rel=1e-9)

    @pytest.mark.parametrize(
        ("name", "power"),
        [("energy_distance", 0.5), ("mmd", 0), ("covariance_error", 2)]
        + [(name, 1) for name in ("wasserstein2", "sliced_wasserstein", "mean_error")],
    )
    def test_scales_with_the_units_of_the_samples(self, name, power):
        x, y = normal(0, 30, 3), 2 * normal(1, 40, 3)
        expected = 10.0**power * DISTANCES[name](x, y, 0)
        assert DISTANCES[name](10 * x, 10 * y, 0) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("name", DISTANCES)
    def test_sees_events_as_flat_vectors(self, name):
        x, y = normal(0, 30, 4), 2 * normal(1, 30, 4)
        images = DISTANCES[name](x.reshape(30, 2, 2), y.reshape(30, 2, 2), 0)
        assert images == DISTANCES[name](x, y, 0)

    @pytest.mark.parametrize("name", DISTANCES)
    @pytest.mark.parametrize(
        ("x", "y", "message"),
        [
            (np.zeros((4, 2)), np.zeros((4, 3)), "equal events, got sizes 2 and 3"),
            (np.zeros(4), np.zeros((4, 1)), r"x must be samples .* got shape \(4,\)"),
            (np.zeros((4, 1)), np.full((4, 1), np.nan), "y must be finite"),
        ],
    )
    def test_refuses_what_is_no_pair_of_sets(self, name, x, y, message):
        with pytest.raises(ValueError, match=message):
            DISTANCES[name](x, y, 0)


class TestWasserstein2:
    def test_between_gaussians_on_a_line_is_that_of_their_means_and_deviations(self):
        x, y = 2 * quantiles(20_000), 3 + 0.5 * quantiles(20_000)
        assert wasserstein2(x, y) == pytest.approx(np.hypot(3, 1.5), rel=1e-3)

    def test_on_a_line_takes_sets_of_unequal_size(self):
        # The first third of the mass goes from 0 to 0, half of the second to 3, the rest to 3.
        x, y = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [3.0]])
        expected = np.sqrt((0 + (1 - 0) ** 2 / 2 + (1 - 3) ** 2 / 2 + (2 - 3) ** 2) / 3)
        assert wasserstein2(x, y) == pytest.approx(expected)

    @settings(max_examples=10)
    @given(st.integers(0, 1000), st.integers(1, 5))
    def test_of_a_translation_is_its_length(self, seed, dimension):
        x, shift = normal(seed, 40, dimension), normal(seed + 1, dimension)
        assert wasserstein2(x, x[::-1] + shift) == pytest.approx(np.linalg.norm(shift))

    def test_in_a_plane_is_least_over_all_pairings(self):
        x, y = normal(0, 6, 2), normal(1, 6, 2)
        assert wasserstein2(x, y) == pytest.approx(
            min(rms(x, y[list(p)]) for p in permutations(range(6)))
        )

    def test_of_more_rows_than_a_block_is_that_of_a_block(self):
        x, y = normal(0, 2 * BLOCK + 1, 2), normal(1, 2 * BLOCK + 1, 2) + 1
        assert wasserstein2(x, y) == pytest.approx(wasserstein2(x[:BLOCK], y[:BLOCK]), rel=0.05)


def test_sliced_wasserstein_of_a_translation_is_its_length_over_the_root_of_dimension():
    # E (u . shift)^2 = |shift|^2 / D over the sphere
    x, shift = normal(0, 10, 4), np.array([3.0, 0.0, 4.0, 0.0])
    measured = sliced_wasserstein(x, x + shift, num_projections=20_000)
    assert measured == pytest.approx(5 / 2, rel=0.02)


def test_mmd_of_two_points_is_that_of_their_kernel():
    x, y = np.zeros((5, 2)), np.full((7, 2), 1.0)
    expected = np.sqrt(2 - 2 * np.exp(-2 / (2 * 0.7**2)))
    assert mmd(x, y, bandwidth=0.7) == pytest.approx(expected, rel=1e-6)


def test_mmd_between_gaussians_is_its_closed_form_and_its_bandwidth_their_median_distance():
    # E k = prod over axes of h / sqrt(h^2 + s^2) exp(-m^2 / (2 (h^2 + s^2))), s^2 = 1 + 1;
    # |y - y'|^2 is 2 chi^2 with two degrees of freedom.
    h2 = 2 * stats.chi2(2).median()
    inside, across = h2 / (h2 + 2), h2 / (h2 + 2) * np.exp(-1 / (2 * (h2 + 2)))
    x, y = normal(0, 3000, 2) + np.array([1.0, 0.0]), normal(1, 3000, 2)
    assert mmd(x, y) == pytest.approx(np.sqrt(2 * inside - 2 * across), rel=0.05)


def test_mmd_without_a_bandwidth_is_refused():
    with pytest.raises(ValueError, match=r"bandwidth above zero, got 0\.0"):
        mmd(normal(0, 4, 1), np.zeros((4, 1)))


def test_energy_distance_of_two_points_is_the_root_of_twice_their_distance():
    assert energy_distance(np.zeros((3, 2)), np.tile([3.0, 4.0], (5, 1))) == pytest.approx(10**0.5)


def test_energy_distance_on_a_line_is_that_of_scipy():
    x, y = normal(0, 30, 1), 2 * normal(1, 50, 1) + 1
    assert energy_distance(x, y) == pytest.approx(stats.energy_distance(x[:, 0], y[:, 0]))


def test_mean_and_covariance_error_are_norms_of_the_difference_of_moments():
    x = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # covariance 4/3 I
    assert mean_error(x, x + np.array([3.0, 4.0])) == pytest.approx(5)
    assert covariance_error(x, 2 * x) == pytest.approx(4 * np.sqrt(2))


def test_rms_is_the_root_of_the_mean_square_over_rows_of_the_norm():
    assert rms(np.zeros((2, 2)), [[3.0, 4.0], [0.0, 0.0]]) == pytest.approx(np.sqrt(25 / 2))


def test_rms_of_sets_of_unequal_size_is_refused():
    with pytest.raises(ValueError, match="row by row, got 2 and 3 rows"):
        rms(np.zeros((2, 2)), np.zeros((3, 2)))


class TestKL:
    @pytest.mark.parametrize("dimension", [1, 2])
    def test_between_gaussians_is_its_closed_form(self, dimension):
        # KL(N(0, I) || N(m, s^2 I)) = D [log s + (1 + m^2) / (2 s^2) - 1/2]
        x = normal(0, 4000, dimension)
        log_p = stats.norm(0.5, 1.5).logpdf(x).sum(axis=1)
        expected = dimension * (np.log(1.5) + 1.25 / 4.5 - 0.5)
        assert kl(x, log_p) == pytest.approx(expected, abs=0.05)

    def test_is_infinite_where_samples_are_equal_or_impossible(self):
        x = normal(0, 20, 2)
        assert kl(np.zeros((20, 2)), np.zeros(20)) == np.inf
        assert kl(x, np.full(20, -np.inf)) == np.inf

    @pytest.mark.parametrize(("dimension", "least", "most"), [(1, 3.9, 4.3), (64, 0.0, 0.3)])
    def test_of_a_coordinate_a_hundred_times_too_narrow_is_seen_in_few_dimensions_only(
        self, dimension, least, most
    ):
        # Of log 100 - 1/2 = 4.1 nats, which is why `compare` has it up to three dimensions.
        exact = normal(0, 1000, dimension)
        narrow = exact.copy()
        narrow[:, 0] *= 0.01
        of_exact, of_narrow = (kl(x, stats.norm().logpdf(x).sum(axis=1)) for x in (exact, narrow))
        assert least < of_narrow - of_exact < most

    @pytest.mark.parametrize(
        ("log_p", "k", "message"),
        [
            (np.zeros((20, 1)), 3, r"log_p must be \[N\] with N = 20, got shape \(20, 1\)"),
            (np.zeros(20), 20, "k must be at least 1 and less than 20 samples, got 20"),
        ],
    )
    def test_refuses_what_does_not_fit_the_samples(self, log_p, k, message):
        with pytest.raises(ValueError, match=message):
            kl(normal(0, 20, 2), log_p, k=k)


class TestInterval:
    @pytest.mark.parametrize("name", ["sliced_wasserstein", "energy_distance", "mean_error"])
    def test_holds_the_mean_over_sets_of_that_size_four_times_in_five_or_more(self, name):
        sets = [
            (normal((0, i), 100, 2) + np.array([0.5, 0.0]), normal((1, i), 100, 2))
            for i in range(300)
        ]
        expected = np.mean([DISTANCES[name](x, y, 0) for x, y in sets])
        intervals = np.array([interval(DISTANCES[name], x, y, resamples=16) for x, y in sets[:60]])
        covered = np.mean((intervals[:, 0] <= expected) & (expected <= intervals[:, 1]))
        assert covered > 0.8

    def test_of_a_mean_is_students(self):
        x, y = normal(0, 2000, 1), np.zeros((2000, 1))
        low, high = interval(lambda x, y, seed: float(np.mean(x)), x, y, resamples=400)
        half = 1.96 * np.std(x) / np.sqrt(2000)
        assert (low + high) / 2 == pytest.approx(np.mean(x))
        assert (high - low) / 2 == pytest.approx(half, rel=0.1)

    def test_of_rows_that_belong_together_keeps_them_together(self):
        y = normal(0, 100, 2)
        assert interval(rms, y + np.array([0.3, 0.0]), y) == pytest.approx((0.3, 0.3))

    def test_of_too_few_rows_is_refused(self):
        with pytest.raises(ValueError, match="at least 16 rows, got 10 and 20"):
            interval(mean_error, np.zeros((10, 1)), np.zeros((20, 1)))


def test_floor_is_the_distance_between_sets_of_one_distribution():
    # The means of two sets of N differ by N(0, 2 / N) on each of two axes: |.| is Rayleigh.
    mean, std = floor(mean_error, lambda i: normal(i, 50, 2), repeats=400)
    rayleigh = stats.rayleigh(scale=np.sqrt(2 / 50))
    assert mean == pytest.approx(rayleigh.mean(), rel=0.1)
    assert std == pytest.approx(rayleigh.std(), rel=0.15)
