"""The networks of this folder as models, and the digits in their range."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

import sde_diffusion as sd
from sde_diffusion import data, metrics
from sde_diffusion.cli import run
from sde_diffusion.config import build

LEVELS = 16  # the values of a pixel are 0 to 16


class Digits(NamedTuple):
    """Images x [N, 8, 8, 1] in the models' range [-1, 1], and labels [N]."""

    x: jax.Array
    label: np.ndarray


def digits(part: str) -> Digits:
    """The part "train" or "test" of the digits."""
    source = data.load("digits", part=part)
    records = data.take(source, np.arange(len(source)))
    return Digits(jnp.asarray(records["image"]) / (LEVELS / 2) - 1.0, records["label"])


def model(workdir: str, step: str | None = None) -> sd.Model:
    """The trained network of a run, by the average of its parameters that samples."""
    folder = epath.Path(workdir)
    config = run.read_config(folder, {})
    features = run.read_data(folder).features
    params, _ = run.restore_params(folder, config, features, step=step)
    return build.model(config, params)


def judge(train: Digits) -> metrics.Classifier:
    """A classifier trained on the training part; `as_judged` says what it takes."""
    return metrics.train_classifier(as_judged(train.x), train.label, seed=0)


def as_judged(x: jax.Array) -> np.ndarray:
    """Images in [0, 1]."""
    return np.clip((np.asarray(x) + 1) / 2, 0, 1)


def share(hits: np.ndarray) -> str:
    """A share in percent with its 95 % interval (normal approximation)."""
    p = float(np.mean(hits))
    return f"{100 * p:.1f} ± {196 * np.sqrt(p * (1 - p) / np.size(hits)):.1f} %"
