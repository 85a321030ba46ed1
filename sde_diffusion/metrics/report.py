"""How good samples are: the figures that the command `evaluate` reports."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sde_diffusion.metrics.classifier import train_classifier
from sde_diffusion.metrics.features import COMPONENTS, principal_components
from sde_diffusion.metrics.frechet import frechet_between_halves, frechet_distance
from sde_diffusion.metrics.neighbours import share_near
from sde_diffusion.metrics.precision_recall import nearest_neighbour_ratio
from sde_diffusion.metrics.threads import one_thread

# Neighbours that set the radii of precision and recall.
NEIGHBOURS = 3
# Larger events reach the classifier as this many of their principal components.
CLASSIFIER_INPUTS = 256
# Numbers of data from which more than one thread pays.
LARGE = 2**22

Features = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[str], None]


class Report(NamedTuple):
    """Metrics by name, all finite, and the reason for each metric that is left out."""

    figures: dict[str, float]
    left_out: dict[str, str]


class Seen(NamedTuple):
    """What the metrics look at.

    Flat samples [N, D] and data [M, D] scaled to [0, 1], their features [N, F] and [M, F], the
    data's labels [M], the share of samples whose class is the one asked for, and a seed.
    """

    samples: np.ndarray
    data: np.ndarray
    sample_features: np.ndarray
    data_features: np.ndarray
    labels: np.ndarray | None
    agreement: float
    seed: int


def evaluate(
    samples: ArrayLike,
    data: ArrayLike,
    *,
    y: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    low: float = 0.0,
    high: float = 1.0,
    seed: int = 0,
    features: Features | None = None,
    progress: Progress = lambda stage: None,
) -> Report:
    """Compare samples with real data, in the features of a classifier trained on the data.

    - `agreement`: the share of samples whose class, as the classifier sees it, is the one asked
      for.
    - `frechet`: the Frechet distance between the features of samples and data.
    - `frechet_halves`: that between two disjoint random parts of the data, the mean over 100
      splits. A part is half of the data, or as many as there are samples where these are fewer.
    - `frechet_ratio`: the first over the second.
    - `frechet_halves_stratified`: as `frechet_halves`, with equal shares of each class in both
      parts. Half of the distance between random halves comes of their classes' unequal shares,
      from which samples of chosen classes are free: this is the stricter yardstick, near which
      fresh digits lie.
    - `precision`, `recall`: of Kynkäänniemi et al. 2019, k = 3, in the same features.
    - `nearest_neighbour_ratio`: the median distance of a sample to the nearest datum over that
      of a datum to the nearest other one, in pixels; near 0 the data was copied.

    Without `y`, or with fewer than two classes, the features are the data themselves up to 64
    dimensions. Beyond, they are the first 64 principal components of the data and the length of
    what these leave: in thousands of dimensions, a few thousand samples do not determine a
    covariance.

    Args:
        samples: [N, *event] in the range [low, high].
        data: real data [M, *event] in the same range.
        y: int [N], the classes that were asked for, or None.
        labels: int [M], those of the data, or None.
        seed: of the classifier and of the splits.
        features: takes flat events [N, D], scaled to [0, 1], to features [N, F], in place of those
            above.
        progress: called with the name of each stage when it begins.

    Raises:
        ValueError: `y` without `labels`, or arrays that do not fit each other.
    """
    samples, data = np.asarray(samples), np.asarray(data)
    y, labels = (None if a is None else np.asarray(a) for a in (y, labels))
    _check(samples, data, y, labels)
    left_out = missing(data, labels if y is not None else None, len(samples))
    samples, data = (
        (np.asarray(a, np.float64).reshape(len(a), -1) - low) / (high - low)
        for a in (samples, data)
    )
    trained = "agreement" not in left_out
    figures: dict[str, float] = {}
    with one_thread() if data.size < LARGE else nullcontext():
        progress("training a classifier" if trained else "features")
        seen = _look(samples, data, y, labels if trained else None, features, seed)
        for name, measure in METRICS.items():
            if name in left_out:
                continue
            progress(name)
            try:
                figures[name] = measure(seen)
            except ValueError as error:
                left_out[name] = str(error)
    if "frechet" in figures and figures.get("frechet_halves", 0.0) > 0.0:
        figures["frechet_ratio"] = figures["frechet"] / figures["frechet_halves"]
    else:
        left_out.setdefault("frechet_ratio", left_out.get("frechet_halves", ""))
    return finite(figures, left_out)


def missing(data: np.ndarray, labels: np.ndarray | None, num: int) -> dict[str, str]:
    """{metric: reason} for the metrics that `num` samples and these data cannot have.

    It needs no samples, so that they need not be drawn to find out. A few more reasons are known
    only once the features are, such as data half of which are copies.

    Args:
        data: [M, *event].
        labels: [M], or None where no classes are asked for.
        num: the number of samples.
    """
    reasons = {}

    def without(reason: str, *names: str) -> None:
        reasons.update({name: reason for name in names if name not in reasons})

    of_halves = ("frechet_halves", "frechet_ratio", "frechet_halves_stratified")
    if labels is None:
        without("no classes are asked for", "agreement", "frechet_halves_stratified")
    elif len(np.unique(labels)) < 2:
        told = "the data have one class only"
        without(told, "agreement", "frechet_halves_stratified")
    if num < 2:
        without("one sample has no covariance", "frechet", *of_halves)
    if len(data) < 4:
        without(f"the halves of {len(data)} data have no covariance", *of_halves)
    if len(data) < 2:
        without(
            "one datum has no covariance and no neighbour", "frechet", "nearest_neighbour_ratio"
        )
    fewest = min(num, len(data))
    if fewest <= NEIGHBOURS:
        told = f"needs more than {NEIGHBOURS} samples and data, got {num} and {len(data)}"
        without(told, "precision", "recall")
    if all(np.array_equal(row, data[0]) for row in data):
        without("all data are equal", *of_halves, "nearest_neighbour_ratio", "agreement")
    return reasons


def finite(figures: dict[str, float], left_out: dict[str, str]) -> Report:
    """A report whose figures are finite: those that are not are left out, with their value."""
    bad = {
        name: f"is {value}, not a finite number"
        for name, value in figures.items()
        if not math.isfinite(value)
    }
    return Report({k: v for k, v in figures.items() if k not in bad}, left_out | bad)


def _look(
    samples: np.ndarray,
    data: np.ndarray,
    y: np.ndarray | None,
    labels: np.ndarray | None,
    features: Features | None,
    seed: int,
) -> Seen:
    """The features: of a classifier where there are labels, of nothing but the data elsewhere."""
    agreement = math.nan
    if labels is not None:
        inputs: Features = _unchanged
        if data.shape[1] > CLASSIFIER_INPUTS:
            inputs = principal_components(data, CLASSIFIER_INPUTS, seed).project
        classifier = train_classifier(inputs(data), labels, seed)
        agreement = float(np.mean(classifier.labels(inputs(samples)) == y))
        features = features or (lambda x: classifier.features(inputs(x)))
    elif features is None and data.shape[1] > COMPONENTS:
        features = principal_components(data, COMPONENTS, seed).features
    features = features or _unchanged
    return Seen(samples, data, features(samples), features(data), labels, agreement, seed)


def _unchanged(x: np.ndarray) -> np.ndarray:
    return x


def _halves(seen: Seen, labels: np.ndarray | None = None) -> float:
    real = seen.data_features
    value = frechet_between_halves(real, seen.seed, labels, most=len(seen.samples))
    if not value > 1e-12 * float(np.mean(np.sum(real**2, axis=1))):
        raise ValueError("two random halves of the data do not differ in the features")
    return value


METRICS: dict[str, Callable[[Seen], float]] = {
    "agreement": lambda seen: seen.agreement,
    "frechet": lambda seen: frechet_distance(seen.sample_features, seen.data_features),
    "frechet_halves": _halves,
    "frechet_halves_stratified": lambda seen: _halves(seen, seen.labels),
    "precision": lambda seen: share_near(seen.sample_features, seen.data_features, NEIGHBOURS),
    "recall": lambda seen: share_near(seen.data_features, seen.sample_features, NEIGHBOURS),
    "nearest_neighbour_ratio": lambda seen: nearest_neighbour_ratio(
        seen.samples, seen.data, seen.seed
    ),
}


def _check(
    samples: np.ndarray, data: np.ndarray, y: np.ndarray | None, labels: np.ndarray | None
) -> None:
    if samples.shape[1:] != data.shape[1:]:
        raise ValueError(f"samples must have shape [N, {data.shape[1:]}], got {samples.shape}")
    if y is not None and labels is None:
        raise ValueError("the data have no labels to train the classifier on")
    for name, given, rows in (("y", y, samples), ("labels", labels, data)):
        if given is not None and given.shape != rows.shape[:1]:
            raise ValueError(f"{name} must have shape {rows.shape[:1]}, got {given.shape}")
