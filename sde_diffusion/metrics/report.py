"""How good samples are: the figures that the command `evaluate` reports."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from threadpoolctl import threadpool_limits

from sde_diffusion.data import Source, take
from sde_diffusion.metrics.classifier import train_classifier
from sde_diffusion.metrics.frechet import frechet_distance
from sde_diffusion.metrics.precision_recall import nearest_neighbour_ratio, precision_recall


def evaluate(x: ArrayLike, y: ArrayLike | None, source: Source, seed: int = 0) -> dict[str, float]:
    """Compare samples with all the real data, in the features of a classifier trained on these.

    Without classes (y is None) the features are the data themselves.

    - `agreement`: the share of samples whose class, as the classifier sees it, is the one asked
      for; with classes only.
    - `frechet`: the Frechet distance to all the real data, in the classifier's last hidden layer.
    - `frechet_halves`: that between two random halves of the real data, the mean over 100 splits.
    - `frechet_ratio`: the first over the second.
    - `frechet_halves_stratified`: as `frechet_halves`, with each class split evenly. Half of the
      distance between random halves comes of their classes' unequal shares, from which samples
      of chosen classes are free: this is the stricter yardstick, near which fresh digits lie;
      with classes only.
    - `precision`, `recall`: of Kynkäänniemi et al. 2019, k = 3, in the same features.
    - `nearest_neighbour_ratio`: the median distance of a sample to the nearest datum over that
      of a datum to the nearest other one, in pixels; near 0 the data was copied.

    Args:
        x: samples [N, *event] in the data's own range source.features.event.range.
        y: int [N], the classes that were asked for, or None.
        source: the real data, with labels.
        seed: of the classifier and of the splits.

    Raises:
        ValueError: y is given for a source without labels, or x or y does not fit it.
    """
    if y is not None and "label" not in source.features:
        raise ValueError(f"source {source.name!r} has no labels to train the classifier on")
    records = take(source, np.arange(len(source)))
    samples = np.asarray(x, np.float64)
    data = np.asarray(records[source.features.event_name], np.float64)
    if samples.shape[1:] != data.shape[1:]:
        raise ValueError(f"x must have shape [N, {data.shape[1:]}], got {samples.shape}")
    if y is not None and np.shape(y) != samples.shape[:1]:
        raise ValueError(f"y must have shape {samples.shape[:1]}, got {np.shape(y)}")
    low, high = source.features.event.range
    samples, data = ((a - low) / (high - low) for a in (samples, data))

    report = {}
    if y is None:
        seen, real = (a.reshape(len(a), -1) for a in (samples, data))
    else:
        classifier = train_classifier(data, records["label"], seed)
        seen, real = classifier.features(samples), classifier.features(data)
        report["agreement"] = float(np.mean(classifier.labels(samples) == y))
        report["frechet_halves_stratified"] = frechet_between_halves(real, seed, records["label"])
    frechet, halves = frechet_distance(seen, real), frechet_between_halves(real, seed)
    precision, recall = precision_recall(seen, real)
    return report | {
        "frechet": frechet,
        "frechet_halves": halves,
        "frechet_ratio": frechet / halves,
        "precision": precision,
        "recall": recall,
        "nearest_neighbour_ratio": nearest_neighbour_ratio(samples, data),
    }


def frechet_between_halves(
    features: ArrayLike, seed: int, labels: ArrayLike | None = None, splits: int = 100
) -> float:
    """The Frechet distance between two random halves of a set of features, a mean over splits.

    One split is no yardstick: on the digits it varies by 40 %, mostly with the share of each class
    that falls on either side; the mean over 100 varies by 4 %.

    Args:
        features: [N, D].
        seed: of the splits.
        labels: [N]; where given, the halves hold equal shares of each class.
        splits: how many.
    """
    features = np.asarray(features)
    kind = ShuffleSplit if labels is None else StratifiedShuffleSplit
    halves = kind(splits, test_size=0.5, random_state=seed).split(features, labels)
    with threadpool_limits(1):  # as for the classifier: small matrices
        return float(np.mean([frechet_distance(features[a], features[b]) for a, b in halves]))
