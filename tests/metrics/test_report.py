"""The classifier of the digits and the report of a set of samples of them."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from sde_diffusion.data import from_arrays, load
from sde_diffusion.metrics import evaluate, frechet_between_halves, train_classifier

DIGITS = load("digits")
IMAGES, Y = DIGITS.arrays["image"], DIGITS.arrays["label"]
X = IMAGES / 16


@pytest.fixture(scope="module")
def classifier():
    return train_classifier(X, Y, seed=0)


@pytest.fixture(scope="module")
def a_thousand():
    return np.random.default_rng(0).permutation(len(DIGITS))[:1000]


@pytest.mark.slow
def test_the_classifier_is_right_on_98_percent_of_digits_it_has_not_seen():
    folds = StratifiedKFold(5, shuffle=True, random_state=0).split(X.reshape(len(X), -1), Y)
    right = [np.mean(train_classifier(X[a], Y[a], 0).labels(X[b]) == Y[b]) for a, b in folds]
    assert np.mean(right) >= 0.98


def test_the_classifier_is_a_function_of_the_seed(classifier):
    again, other = train_classifier(X, Y, seed=0), train_classifier(X, Y, seed=1)
    np.testing.assert_array_equal(classifier.features(X), again.features(X))
    assert (classifier.weights[0] != other.weights[0]).all()


def test_labels_are_the_greatest_logit_over_the_features(classifier):
    from scipy.special import softmax

    features = classifier.features(X[:50])
    assert features.shape == (50, 64)
    assert (features >= 0).all()
    probability = softmax(features @ classifier.weights[-1] + classifier.biases[-1], axis=-1)
    np.testing.assert_array_equal(classifier.labels(X[:50]), probability.argmax(axis=-1))


@pytest.mark.parametrize("labels", [[0, 1, 3, 3], [0, 0, 1, 1], [1, 2, 3, 3]])
def test_labels_with_gaps_are_refused(labels):
    with pytest.raises(ValueError, match="every label"):
        train_classifier(np.zeros((4, 2)), np.array(labels), 0)


def test_real_digits_among_all_real_digits_are_near_perfect_but_seen_to_be_copies(a_thousand):
    report = evaluate(IMAGES[a_thousand], Y[a_thousand], DIGITS, seed=0)
    assert report["agreement"] == 1
    assert report["precision"] == 1
    assert report["recall"] > 0.95
    assert report["frechet_ratio"] < 0.3
    assert report["nearest_neighbour_ratio"] == 0


def test_wrong_labels_lower_the_agreement_alone(a_thousand):
    x, y = IMAGES[a_thousand], Y[a_thousand].copy()
    right = evaluate(x, y, DIGITS)
    y[:100] = (y[:100] + 1) % 10
    assert evaluate(x, y, DIGITS) == right | {"agreement": pytest.approx(0.9)}


def test_noise_is_neither_precise_nor_near():
    noise = np.random.default_rng(0).uniform(0, 16, (500, 8, 8, 1))
    report = evaluate(noise, None, DIGITS)
    assert "agreement" not in report
    assert report["precision"] < 0.5
    assert report["frechet_ratio"] > 5
    assert report["nearest_neighbour_ratio"] > 2


def test_the_distance_between_halves_hardly_depends_on_the_splits_seed(classifier):
    features = classifier.features(X)
    values = [frechet_between_halves(features, seed) for seed in range(3)]
    assert np.ptp(values) < 0.2 * np.mean(values)


def test_halves_with_equal_shares_of_each_class_are_nearer(classifier):
    features = classifier.features(X)
    stratified = frechet_between_halves(features, 0, labels=Y)
    assert stratified < 0.7 * frechet_between_halves(features, 0)


@pytest.mark.parametrize(
    ("x", "y", "source", "message"),
    [
        (np.zeros((5, 8, 8)), None, DIGITS, r"x must have shape \[N, \(8, 8, 1\)\]"),
        (np.zeros((5, 8, 8, 1)), np.zeros(4), DIGITS, r"y must have shape \(5,\), got \(4,\)"),
        (
            np.zeros((5, 2)),
            np.zeros(5),
            from_arrays("points", {"x": np.zeros((9, 2))}, low=0, high=1),
            "no labels",
        ),
    ],
)
def test_samples_that_do_not_fit_the_source_are_refused(x, y, source, message):
    with pytest.raises(ValueError, match=message):
        evaluate(x, y, source)


def test_without_classes_the_features_are_the_data_themselves():
    points = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    source = from_arrays("points", {"x": points}, low=-1, high=1)
    report = evaluate(points[:200] + 4.0, None, source)
    assert "agreement" not in report
    # a shift by 4 in both coordinates, of data that are scaled to half
    assert report["frechet"] == pytest.approx(2 * 2.0**2, rel=0.05)
