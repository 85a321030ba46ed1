"""Distances between samples and data, on the host with numpy and scipy.

`evaluate` makes the report of the command of that name, in the features of a small classifier, of
principal components, or of the caller's own. `DISTANCES` are those that solvers are compared by.
Only the classifier needs the extra `train`, for scikit-learn.
"""

from sde_diffusion.metrics.bits_per_dim import bits_per_dim
from sde_diffusion.metrics.classifier import Classifier, train_classifier
from sde_diffusion.metrics.distances import DISTANCES, Distance, floor, interval, kl, rms
from sde_diffusion.metrics.features import Components, principal_components
from sde_diffusion.metrics.frechet import frechet_between_halves, frechet_distance
from sde_diffusion.metrics.precision_recall import nearest_neighbour_ratio, precision_recall
from sde_diffusion.metrics.reconstruction import psnr, ssim
from sde_diffusion.metrics.report import METRICS, Report, evaluate, finite, missing
from sde_diffusion.metrics.retrieval import is_found, share

__all__ = [
    "DISTANCES",
    "METRICS",
    "Classifier",
    "Components",
    "Distance",
    "Report",
    "bits_per_dim",
    "evaluate",
    "finite",
    "floor",
    "frechet_between_halves",
    "frechet_distance",
    "interval",
    "is_found",
    "kl",
    "missing",
    "nearest_neighbour_ratio",
    "precision_recall",
    "principal_components",
    "psnr",
    "rms",
    "share",
    "ssim",
    "train_classifier",
]
