"""What an autoencoder makes of images: pictures during its training, and its evaluation."""

from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from sde_diffusion import data, distributed, metrics, training
from sde_diffusion.cli import codec, picture, run
from sde_diffusion.config import build
from sde_diffusion.training import TrainState

# In a picture: originals, each beside its reconstruction.
SHOWN, COLUMNS = 50, 10


def pictures_of(
    config: ConfigDict, workdir: epath.Path, source: data.Source
) -> Callable[[TrainState, int], None]:
    """What draws a picture of originals and reconstructions into the run's folder, and its loss."""
    features = source.features
    rows = np.unique(np.linspace(0, len(source) - 1, SHOWN).round().astype(int))
    used = data.select(source, [features.event_name])
    real = data.take(used, rows)[features.event_name]

    def pictures(state: TrainState, step: int) -> None:
        made = of_images(config, features, run.sampling_params(state), real)
        if distributed.is_first_process():
            both = np.stack([real, made], axis=1).reshape(-1, *features.event.shape)
            path = workdir / "samples" / f"step_{step:07d}.png"
            picture.save(path, both, features.event, COLUMNS)
            training.plot_loss(workdir)

    return pictures


def of_images(
    config: ConfigDict,
    features: data.Features,
    params: Any,
    images: np.ndarray,
    progress: bool = False,
) -> np.ndarray:
    """The decoded means of the latents of images [N, H, W, C], in the images' own units."""
    coder = codec.of_params(config, features, params)
    mesh = build.mesh(config)
    hidden = not (progress and distributed.is_first_process())
    parts = []
    starts = range(0, len(images), config.training.batch_size)
    for first in tqdm(starts, desc="reconstructing", unit="batch", disable=hidden):
        part = images[first : first + config.training.batch_size]
        made = codec.decode(coder, mesh, codec.encode(coder, mesh, part)[0])
        parts.append(codec.as_stored(made, features.event))
    return np.concatenate(parts)


def evaluate(
    config: ConfigDict, source: data.Source, params: Any, real: np.ndarray, seed: int
) -> dict[str, Any]:
    """PSNR, SSIM and the Frechet ratio of reconstructions of images [N, H, W, C].

    The first two are means over the images, with their standard errors.
    """
    event = source.features.event
    made = of_images(config, source.features, params, real, progress=True)
    low, high = event.range
    found: dict[str, Any] = {}
    for name, measure in (("psnr", metrics.psnr), ("ssim", metrics.ssim)):
        values = measure(real, made, low, high)
        found[name] = float(values.mean())
        found[f"{name}_standard_error"] = float(values.std(ddof=1) / np.sqrt(len(values)))
    compared = metrics.evaluate(made, real, low=low, high=high, seed=seed)
    kept = ("frechet", "frechet_halves", "frechet_ratio")
    return found | {name: compared.figures[name] for name in kept if name in compared.figures}
