"""Distances between samples and data; numpy, scipy and scikit-learn, no accelerator."""

from sde_diffusion.metrics.classifier import Classifier, train_classifier
from sde_diffusion.metrics.distances import DISTANCES, Distance, floor, interval, kl, rms
from sde_diffusion.metrics.frechet import frechet_distance
from sde_diffusion.metrics.precision_recall import nearest_neighbour_ratio, precision_recall
from sde_diffusion.metrics.report import evaluate, frechet_between_halves

__all__ = [
    "DISTANCES",
    "Classifier",
    "Distance",
    "evaluate",
    "floor",
    "frechet_between_halves",
    "frechet_distance",
    "interval",
    "kl",
    "nearest_neighbour_ratio",
    "precision_recall",
    "rms",
    "train_classifier",
]
