"""Classes in the proportions of the data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sde_diffusion.data import in_proportion


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(any), st.integers(1, 300))
def test_every_beginning_holds_each_class_as_often_as_its_share_says(counts, num):
    labels = in_proportion(counts, num)
    made = np.cumsum(np.eye(len(counts))[labels], axis=0)
    wanted = np.arange(1, num + 1)[:, None] * np.asarray(counts) / sum(counts)
    assert np.abs(made - wanted).max() < 2
    assert not made[-1][np.asarray(counts) == 0].any()


def test_equal_classes_take_turns():
    np.testing.assert_array_equal(in_proportion([9] * 10, 1000), np.arange(1000) % 10)


def test_of_rare_classes_a_thousand_samples_hold_their_share():
    made = np.bincount(in_proportion([380, 7, 6, 7], 1000))
    np.testing.assert_allclose(made, [950, 17.5, 15, 17.5], atol=1)


def test_no_data_is_refused():
    with pytest.raises(ValueError, match=r"no class has any data: counts \[0, 0\]"):
        in_proportion([0, 0], 3)
