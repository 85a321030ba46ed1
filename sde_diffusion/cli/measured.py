"""What a user gives of an image: a part of it, a small one, or one to change.

    --image F --mask M     the image where the mask is dark; where it is white, samples fill it in
    --super-resolve F      the means of a larger image over blocks of pixels

A network that is not told images samples what fits them all the same: see `inverse`.
"""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sde_diffusion import data, inverse, notation, selection
from sde_diffusion.cli import image_file
from sde_diffusion.cli.draw import Under
from sde_diffusion.model import Model

DEFAULT = "mmps(iterations=1)"
METHODS: dict[str, Callable[..., Model]] = {
    "mmps": inverse.mmps,
    "pigdm": inverse.pigdm,
    "sda": inverse.sda,
    "tmpd": inverse.tmpd,
}


def measured(
    config: ConfigDict,
    features: data.Features,
    images: np.ndarray,
    num: int,
    args: Namespace,
    cond: Any,
    option: str,
) -> tuple[Under, np.ndarray]:
    """What --image with --mask, or --super-resolve, ask of a network that is told no image.

    `images` [N, h, w, C] are in the data's own units, as are the images that are returned to show
    beside the samples, [N, K, h, w, C], which are NaN where nothing is known.

    Raises ValueError that names the option for a mask of another size, an unknown method and a
    noise below 0.
    """
    event, given = features.event, images[:, None]
    if args.mask is None:
        operator: inverse.Operator = inverse.Downsampling(event.shape[0] // images.shape[1])
    else:
        known = image_file.read_mask(args.mask, event.shape)
        operator = inverse.Inpainting(jnp.asarray(known, jnp.float32))
        given = np.stack([images, np.where(known, images, np.nan)], axis=1)
    noise = 0.0 if args.noise is None else args.noise
    if not (np.isfinite(noise) and noise >= 0):
        raise ValueError(f"--noise must be at least 0, got {noise}")
    scaling = data.Scaling(*event.range, *config.data.range)
    y = scaling.scale(jnp.asarray(image_file.repeated(images, num, option)))
    measurement = inverse.Measurement.of(y, noise * scaling.slope, cond=cond)
    name, fields = notation.read("method", DEFAULT if args.method is None else args.method)
    selection.choose("--method", name, METHODS)

    def steer(model: Model) -> Model:
        given = {"model": model, "operator": operator, **fields}
        return selection.build("--method", name, METHODS, given)

    return Under(jax.tree.map(np.asarray, measurement), steer), given


def small_images(path: str, event: data.Feature) -> np.ndarray:
    """Images [N, h, w, C] that images of the run are a whole number of times as large as.

    Raises ValueError for images of another size, and where samples are no images.
    """
    if len(event.shape) != 3:
        raise ValueError(f"--super-resolve is for images, and samples have the shape {event.shape}")
    height, width, channels = event.shape
    rows, columns = image_file.size(path, "--super-resolve", event)
    factor = height // max(rows, 1)
    if factor < 2 or (rows * factor, columns * factor) != (height, width):
        raise ValueError(
            f"--super-resolve {path} is {rows}x{columns}, and the run's images of {height}x{width} "
            "are not a whole number of times as large"
        )
    return image_file.read(path, "--super-resolve", event, (rows, columns, channels))
