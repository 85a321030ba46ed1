"""Precision, recall and nearest-neighbour ratio on sets where the answer can be counted."""

import numpy as np
import pytest

from sde_diffusion.metrics import nearest_neighbour_ratio, precision_recall

RNG = np.random.default_rng(0)


def line(*positions):
    return np.array(positions, float)[:, None]


def test_the_same_set_has_full_precision_and_recall():
    x = RNG.standard_normal((50, 4))
    assert precision_recall(x, x) == (1, 1)


def test_disjoint_sets_have_none():
    x = RNG.standard_normal((50, 4))
    assert precision_recall(x, x + 100) == (0, 0)


def test_on_a_line_it_is_what_one_counts_by_hand():
    data, samples = line(0, 1, 10), line(1.5, 3, 30)
    # The data's radii are 1, 1, 9: of its balls [-1, 1], [0, 2], [1, 19] the last two hold 1.5, 3.
    # The samples' are 1.5, 1.5, 27: their balls [0, 3], [1.5, 4.5], [3, 57] hold 0, 1 and 10.
    expected = (2 / 3, 1)
    assert precision_recall(samples, data, k=1) == pytest.approx(expected)


def test_a_collapsed_sampler_is_precise_but_recalls_little():
    data = RNG.standard_normal((500, 2))
    precision, recall = precision_recall(0.05 * RNG.standard_normal((500, 2)), data)
    assert precision > 0.95
    assert recall < 0.05


def test_a_wide_sampler_recalls_all_but_is_not_precise():
    data = 0.05 * RNG.standard_normal((500, 2))
    precision, recall = precision_recall(RNG.standard_normal((500, 2)), data)
    assert precision < 0.05
    assert recall > 0.95


def test_a_larger_k_never_lowers_either():
    x, y = RNG.standard_normal((2, 100, 3)) + np.array([0, 1])[:, None, None]
    values = np.array([precision_recall(x, y, k) for k in (1, 2, 3, 5, 10)])
    assert (np.diff(values, axis=0) >= 0).all()


@pytest.mark.parametrize("k", [0, 5])
def test_k_must_leave_a_neighbour_to_find(k):
    with pytest.raises(ValueError, match=rf"5 samples, 9 data\), got {k}"):
        precision_recall(np.zeros((5, 2)), np.zeros((9, 2)), k)


def test_copies_of_the_data_are_at_ratio_zero():
    x = RNG.standard_normal((50, 4, 4, 1))
    assert nearest_neighbour_ratio(x[:20], x) == 0


def test_fresh_draws_are_as_far_from_the_data_as_it_is_from_itself():
    fresh, data = RNG.standard_normal((2, 1000, 3))
    assert nearest_neighbour_ratio(fresh, data) == pytest.approx(1, abs=0.1)


def test_the_ratio_is_of_medians_of_nearest_distances():
    # Data to the nearest other: 1, 1, 2, 2 (median 1.5). Samples to the data: 0.5, 0, 3.
    data, samples = line(0, 1, 3, 5), line(0.5, 3, 8)
    assert nearest_neighbour_ratio(samples, data) == pytest.approx(0.5 / 1.5)
