"""The classifier of the digits and the report of a set of samples of them."""

import math

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from sde_diffusion.data import load
from sde_diffusion.metrics import (
    evaluate,
    finite,
    frechet_between_halves,
    missing,
    train_classifier,
)

DIGITS = load("digits")
IMAGES, Y = DIGITS.arrays["image"], DIGITS.arrays["label"]
X = IMAGES / 16


@pytest.fixture(scope="module")
def classifier():
    return train_classifier(X, Y, seed=0)


@pytest.fixture(scope="module")
def a_thousand():
    return np.random.default_rng(0).permutation(len(X))[:1000]


@pytest.fixture(scope="module")
def few():
    """Three classes of four images: 0, 1 and 2 lit pixels, and a little noise."""
    labels = np.arange(12) % 3
    noise = np.random.default_rng(0).uniform(0, 0.1, (12, 2, 2, 1))
    return noise + (np.arange(4).reshape(2, 2, 1) < labels[:, None, None, None]) * 0.8, labels


@pytest.mark.slow
def test_the_classifier_is_right_on_98_percent_of_digits_it_has_not_seen():
    folds = StratifiedKFold(5, shuffle=True, random_state=0).split(X.reshape(len(X), -1), Y)
    right = [np.mean(train_classifier(X[a], Y[a], 0).labels(X[b]) == Y[b]) for a, b in folds]
    assert np.mean(right) >= 0.98


def test_the_classifier_is_a_function_of_all_bits_of_the_seed(few):
    made = [train_classifier(*few, seed).weights[0] for seed in (0, 0, 1, 2**32, 2**32 + 1)]
    assert (made[0] == made[1]).all()
    for i, j in ((0, 2), (0, 3), (2, 4), (3, 4)):
        assert (made[i] != made[j]).all()


def test_labels_are_the_greatest_logit_over_the_features(classifier):
    from scipy.special import softmax

    features = classifier.features(X[:50])
    assert features.shape == (50, 64)
    assert (features >= 0).all()
    probability = softmax(features @ classifier.weights[-1] + classifier.biases[-1], axis=-1)
    np.testing.assert_array_equal(classifier.labels(X[:50]), probability.argmax(axis=-1))


@pytest.mark.parametrize("names", [[0, 1, 2], [3, 4, 9], [5, 2]], ids=str)
def test_classes_may_be_two_and_have_gaps(few, names):
    x, labels = few
    rows = labels < len(names)
    named = np.asarray(names)[labels[rows]]
    np.testing.assert_array_equal(train_classifier(x[rows], named, 0).labels(x[rows]), named)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match=r"two classes or more, got \[3\]"):
        train_classifier(np.zeros((4, 2)), np.full(4, 3), 0)


def test_real_digits_among_all_real_digits_are_near_perfect_but_seen_to_be_copies(a_thousand):
    report = evaluate(X[a_thousand], X, y=Y[a_thousand], labels=Y).figures
    assert report["agreement"] == 1
    assert report["precision"] == 1
    assert report["recall"] > 0.95
    assert report["frechet_ratio"] == report["frechet"] / report["frechet_halves"] < 0.3
    assert report["nearest_neighbour_ratio"] == 0


def test_the_range_of_the_data_changes_nothing(a_thousand):
    report = evaluate(X[a_thousand[:100]], X)
    in_whole_numbers = evaluate(IMAGES[a_thousand[:100]], IMAGES, low=0, high=16)
    assert report.figures == pytest.approx(in_whole_numbers.figures)


def test_wrong_labels_lower_the_agreement_alone(few):
    x, labels = np.tile(few[0], (3, 1, 1, 1)), np.tile(few[1], 3)
    right = evaluate(x, x, y=labels, labels=labels).figures
    wrong = evaluate(x, x, y=np.where(np.arange(36) < 9, (labels + 1) % 3, labels), labels=labels)
    assert right["agreement"] == 1
    assert wrong.figures == right | {"agreement": 0.75}


def test_noise_is_neither_precise_nor_near():
    noise = np.random.default_rng(0).uniform(0, 1, (500, 8, 8, 1))
    report = evaluate(noise, X).figures
    assert report["precision"] < 0.5
    assert report["frechet_ratio"] > 5
    assert report["nearest_neighbour_ratio"] > 2


def test_without_classes_the_features_are_the_data_themselves():
    points = np.random.default_rng(0).normal(size=(400, 2))
    report = evaluate(points[:200] + 4.0, points)
    assert report.figures["frechet"] == pytest.approx(2 * 4.0**2, rel=0.05)
    assert report.left_out["agreement"] == "no classes are asked for"


def test_in_many_dimensions_a_fresh_sample_is_nearer_than_one_of_other_detail():
    # Images of 3 random patterns in 300 dimensions: what lies outside of 64 components is noise.
    rng = np.random.default_rng(0)
    patterns = 0.1 * rng.normal(size=(3, 10, 10, 3))

    def images(num, noise):
        smooth = np.tensordot(rng.normal(size=(num, 3)), patterns, 1)
        return smooth + noise * rng.normal(size=smooth.shape)

    data = images(600, 0.1)
    assert evaluate(images(300, 0.1), data).figures["frechet_ratio"] < 1.5
    assert evaluate(images(300, 0.05), data).figures["frechet_ratio"] > 2.5


def test_features_may_be_the_callers_own():
    x, data = np.zeros((20, 3)), np.random.default_rng(0).normal(size=(30, 3))
    report = evaluate(x, data, features=lambda rows: 10 * rows[:, :1]).figures
    assert report["frechet"] == pytest.approx(
        100 * (data[:, 0].mean() ** 2 + data[:, 0].var(ddof=1))
    )


class TestWhatCannotBeHad:
    """It is left out with a reason, and all else is there."""

    def report(self, samples, data, **options):
        told = []
        report = evaluate(samples, data, **options, progress=told.append)
        assert all(math.isfinite(value) for value in report.figures.values())
        assert not report.figures.keys() & report.left_out.keys()
        assert set(told) >= report.figures.keys() - {"frechet_ratio"}
        return report

    def test_data_that_are_all_equal(self):
        data, labels = np.full((40, 4, 4, 1), 0.5), np.arange(40) % 2
        report = self.report(data + 0.1, data, y=labels, labels=labels)
        assert set(report.figures) == {"frechet", "precision", "recall"}
        assert report.left_out["frechet_ratio"] == "all data are equal"

    def test_copies_of_three_images(self):
        data = np.repeat(np.eye(3).reshape(3, 1, 3, 1), 20, axis=0)
        report = self.report(data + 0.1, data, y=np.arange(60) // 20, labels=np.arange(60) // 20)
        assert {"agreement", "frechet", "frechet_ratio", "precision"} <= report.figures.keys()
        assert "equal among the others" in report.left_out["nearest_neighbour_ratio"]

    def test_three_images(self):
        report = self.report(
            np.random.default_rng(0).uniform(size=(30, 1, 3, 1)), np.eye(3).reshape(3, 1, 3, 1)
        )
        assert set(report.figures) == {"frechet", "nearest_neighbour_ratio"}
        assert report.left_out["precision"] == "needs more than 3 samples and data, got 30 and 3"

    def test_one_sample(self):
        report = self.report(np.ones((1, 2)), np.random.default_rng(0).normal(size=(9, 2)))
        assert set(report.figures) == {"nearest_neighbour_ratio"}

    def test_one_class(self):
        x = np.random.default_rng(0).normal(size=(9, 2))
        report = self.report(x, x, y=np.zeros(9, int), labels=np.zeros(9, int))
        assert report.left_out["agreement"] == "the data have one class only"
        assert "frechet_ratio" in report.figures

    def test_classes_of_one_image_each(self):
        x = np.random.default_rng(0).normal(size=(9, 2))
        report = self.report(x, x, y=np.arange(9), labels=np.arange(9))
        assert "fewer than two rows" in report.left_out["frechet_halves_stratified"]
        assert report.figures["agreement"] > 0.5

    def test_most_of_it_is_known_before_there_are_samples(self):
        assert missing(np.zeros((9, 2)), None, 5).keys() >= {"agreement", "frechet_halves"}

    def test_a_figure_that_is_not_finite(self):
        report = finite({"a": 1.0, "b": math.nan, "c": math.inf}, {"d": "no"})
        assert report.figures == {"a": 1.0}
        assert report.left_out["c"] == "is inf, not a finite number"
        assert report.left_out.keys() == {"b", "c", "d"}


class TestHalves:
    def test_hardly_depend_on_the_seed_of_the_splits(self, classifier):
        features = classifier.features(X)
        values = [frechet_between_halves(features, seed) for seed in range(3)]
        assert np.ptp(values) < 0.2 * np.mean(values)

    def test_with_equal_shares_of_each_class_are_nearer(self, classifier):
        features = classifier.features(X)
        stratified = frechet_between_halves(features, 0, labels=Y)
        assert stratified < 0.7 * frechet_between_halves(features, 0)

    def test_of_fewer_rows_are_farther_by_the_bias_of_so_few(self):
        # In one dimension E d^2 = 2 / n + O(1 / n) for two sets of n standard normals: of n^-1.
        x = np.random.default_rng(0).normal(size=(4000, 1))
        few, all_of_them = (frechet_between_halves(x, 0, most=most) for most in (100, None))
        assert few == pytest.approx(20 * all_of_them, rel=0.5)


@pytest.mark.parametrize(
    ("x", "y", "labels", "message"),
    [
        (np.zeros((5, 8)), None, None, r"samples must have shape \[N, \(2,\)\], got \(5, 8\)"),
        (np.zeros((5, 2)), np.zeros(4), np.zeros(9), r"y must have shape \(5,\), got \(4,\)"),
        (np.zeros((5, 2)), np.zeros(5), None, "no labels"),
    ],
)
def test_samples_that_do_not_fit_the_data_are_refused(x, y, labels, message):
    with pytest.raises(ValueError, match=message):
        evaluate(x, np.zeros((9, 2)), y=y, labels=labels)
