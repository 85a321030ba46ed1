"""Retrieval and its interval against closed forms and counts."""

import numpy as np
import pytest
from scipy import stats

from sde_diffusion.metrics import frechet_between_halves, is_found, share

EYE = np.eye(6)


def test_a_picture_is_found_if_its_own_caption_fits_best():
    own = np.arange(6)
    assert is_found(EYE, EYE, own, among=6, seed=0).all()
    assert not is_found(-EYE, EYE, own, among=2, seed=0).any()
    assert not is_found(np.zeros((6, 6)), EYE, own, among=2, seed=0).any()  # a tie


def test_pictures_that_say_nothing_are_found_as_often_as_by_chance():
    rng = np.random.default_rng(0)
    pictures, captions = rng.standard_normal((4000, 8)), rng.standard_normal((50, 8))
    captions /= np.linalg.norm(captions, axis=1, keepdims=True)
    own = rng.integers(50, size=4000)
    for among in (2, 20):
        found = is_found(pictures, captions, own, among=among, seed=0).mean()
        p = 1 / among
        assert found == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 4000))


def test_captions_are_filled_up_from_others_where_they_are_too_few():
    """Of 6 captions, among 9, all five others are there, and 3 of those that fit better."""
    better = np.concatenate([2 * EYE[:1], np.zeros((5, 6))])  # one of six beats picture 0
    pictures, own = np.repeat(EYE[:1], 4000, axis=0), np.zeros(4000, int)
    found = is_found(pictures, EYE, own, among=9, seed=0, others=better)
    assert found.mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(4000))
    assert is_found(EYE, EYE, np.arange(6), among=6, seed=0, others=9 * EYE).all()


@pytest.mark.parametrize("among", [1, 8])
def test_more_captions_than_there_are_cannot_be_had(among):
    with pytest.raises(ValueError, match=f"from 2 to the 7 captions, got {among}"):
        is_found(EYE, EYE, np.arange(6), among=among, seed=0, others=EYE[:1])


@pytest.mark.parametrize(("n", "found"), [(10, 0), (87, 30), (300, 255), (40, 40)])
def test_the_ends_of_an_interval_are_the_shares_that_the_normal_test_just_accepts(n, found):
    """p = q -+ z sqrt(q (1 - q) / n) at both ends q, which is how Wilson's interval is defined."""
    p, *ends = share(np.arange(n) < found)
    assert p == found / n
    z = stats.norm.ppf(0.975)
    for q, sign in zip(ends, (1, -1), strict=True):
        assert p == pytest.approx(q + sign * z * np.sqrt(q * (1 - q) / n), abs=1e-9)


def test_samples_like_the_data_are_as_far_from_it_as_its_halves_are_from_each_other():
    rng = np.random.default_rng(0)
    data, like = rng.standard_normal((2, 120, 3))
    halves = frechet_between_halves(data, seed=1)
    assert frechet_between_halves(data, seed=1, samples=data) == halves
    assert frechet_between_halves(data, seed=1, samples=like) == pytest.approx(halves, rel=0.5)
    moved = data + np.array([2.0, 0.0, 0.0])
    assert frechet_between_halves(data, seed=1, samples=moved) == pytest.approx(4 + halves, abs=0.1)


def test_halves_need_rows_of_both_that_belong_together():
    with pytest.raises(ValueError, match="differ in shape"):
        frechet_between_halves(np.zeros((6, 2)), seed=0, samples=np.zeros((5, 2)))
    with pytest.raises(ValueError, match="fewer than two rows"):
        frechet_between_halves(np.zeros((3, 2)), seed=0, samples=np.zeros((3, 2)))
