"""Samples from a trained network, in the data's own range, and pictures of them."""

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from sde_diffusion import data, distributed
from sde_diffusion.config import build
from sde_diffusion.samplers import sample

GAP = 2  # pixels between the images of a picture


def labels(features: data.Features, num: int, wanted: int | None = None) -> np.ndarray:
    """num classes: one of them, or all that have data in turn, a column of a grid for each."""
    if wanted is None:
        there = classes_with_data(features)
        return there[np.arange(num) % len(there)]
    if not 0 <= wanted < features.num_classes:
        raise ValueError(f"--class must be from 0 to {features.num_classes - 1}, got {wanted}")
    return np.full(num, wanted)


def usual_labels(features: data.Features, num: int) -> np.ndarray:
    """num classes in the proportions of the data; in turn where those are not known."""
    return data.in_proportion(features["label"].counts or (1,) * features.num_classes, num)


def classes_with_data(features: data.Features) -> np.ndarray:
    """The classes of which there are data; all of them where the counts are not known."""
    return np.flatnonzero(features["label"].counts or (1,) * features.num_classes)


def class_table(features: data.Features, most: int = 20) -> str:
    """Which number stands for which class, with its records: "0 cat (380), 1 dog (7)"."""
    label = features["label"]
    counts = label.counts or ("?",) * label.num_classes
    named = zip(label.classes or (), counts, strict=True)
    told = [f"{k} {name} ({count})" for k, (name, count) in enumerate(named)]
    return ", ".join([*told[:most], *(["..."] if len(told) > most else [])])


def draw(
    config: ConfigDict,
    params: Any,
    features: data.Features,
    num: int,
    *,
    seed: int,
    y: np.ndarray | None,
    progress: bool = False,
) -> tuple[np.ndarray, int]:
    """(x [num, *event] in the data's own range, evaluations a sample); y [num] or None.

    In batches of about config.sampling.batch_size, over all the devices; every process
    draws, and has all the samples. Sample i depends on the seed, i and y[i] alone.
    """
    solver, grid = build.solver(config), build.grid(config)
    scaling = build.scaling(config, features)
    mesh = build.mesh(config)
    # As many on each device.
    size = -(-min(num, config.sampling.batch_size) // mesh.size) * mesh.size
    params = jax.device_put(params, distributed.replicated(mesh))
    model = distributed.spread(build.model(config, params), mesh)
    hidden = not (progress and distributed.is_first_process())
    made, nfe = [], 0
    for first in tqdm(range(0, num, size), desc="sampling", unit="batch", disable=hidden):
        # The last batch is filled up rather than compiled anew for its own size.
        rows = np.minimum(np.arange(first, first + size), num - 1)
        samples = sample(
            jax.random.key(seed),
            model,
            (size, *features.event.shape),
            solver=solver,
            grid=grid,
            cond=None if y is None else jnp.asarray(y[rows], jnp.int32),
            denoise_last=config.sampling.denoise_last,
            first=first,
        )
        made.append(distributed.to_every_process(scaling.unscale(samples.x)))
        nfe = int(np.max(distributed.to_every_process(samples.nfe)))
    x = np.concatenate(made)[:num]
    if features.event.dtype == "uint8":  # data in whole numbers: so are the samples
        x = np.clip(np.round(x), *features.event.range).astype(np.uint8)
    return x, nfe


def picture(
    path: epath.Path, x: np.ndarray, source: data.Source, columns: int | None = None
) -> None:
    """Images x [N, H, W, C] as a grid, or points x [N, 2] beside the data's, as a PNG.

    Other events have no picture: ValueError.
    """
    if x.ndim == 4 and x.shape[-1] in (1, 3):
        png = _image_grid(x, source.features.event, columns or int(np.ceil(np.sqrt(len(x)))))
    elif x.ndim == 2 and x.shape[1] == 2:
        png = _scatter(x, source)
    else:
        raise ValueError(f"{path}: no picture for samples of shape {x.shape[1:]}; use .npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png)


def has_picture(features: data.Features) -> bool:
    event = features.event.shape
    return event == (2,) or (len(event) == 3 and event[-1] in (1, 3))


def _image_grid(x: np.ndarray, event: data.Feature, columns: int) -> bytes:
    from PIL import Image

    low, high = event.range
    unit = (x - low) / (high - low)
    pixels = np.round(255 * np.clip(unit, 0, 1)).astype(np.uint8)
    zoom = max(1, 32 // x.shape[1])  # small images at a size that a person can read
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    rows = -(-len(pixels) // columns)
    _, height, width, channels = pixels.shape
    tall, wide = height + GAP, width + GAP
    canvas = np.full((rows * tall + GAP, columns * wide + GAP, channels), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = GAP + i // columns * tall, GAP + i % columns * wide
        canvas[top : top + height, left : left + width] = image
    png = io.BytesIO()
    Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas).save(png, format="PNG")
    return png.getvalue()


def _scatter(x: np.ndarray, source: data.Source) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    real = data.take(source, np.arange(min(len(x), len(source))))[source.features.event_name]
    for axis, points, title in zip(axes, (real, x), ("data", "samples"), strict=True):
        axis.scatter(points[:, 0], points[:, 1], s=2, alpha=0.5, linewidths=0)
        axis.set(title=title, aspect="equal")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()
