"""Images that a user gives on the command line: a picture, or several in an .npz file."""

import jax.numpy as jnp
import numpy as np
from etils import epath

from sde_diffusion.data import Feature, Scaling
from sde_diffusion.data.images import Decoder

WHITE = 255


def read(
    path: str, option: str, feature: Feature, shape: tuple[int, ...], to: tuple[float, float]
) -> np.ndarray:
    """The images of a file as float32 [N, *shape], in the range `to`.

    A picture is one image, whose black and white are the ends of the feature's range. An .npz file
    holds N under `image` (or its only name), in the feature's own units.

    Raises ValueError that names the option for images of another shape than `shape`.
    """
    scaling = Scaling(*feature.range, *to)
    if path.endswith(".npz"):
        images = _array(path, option)
    else:
        pixels = _pixels(path, option, shape[-1])
        low, high = feature.range
        images = (low + (high - low) / WHITE * pixels.astype(np.float32))[None]
    if images.shape[1:] != shape:
        raise ValueError(
            f"{option} {path} is {_size(images.shape[1:])}, and {_size(shape)} is needed"
        )
    return np.asarray(scaling.scale(jnp.asarray(images)), np.float32)


def read_mask(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Where a mask file is dark, [H, W, 1] bool for images of `shape` [H, W, C].

    White is what is to be filled in. Raises ValueError for a mask of another size.
    """
    pixels = _pixels(path, "--mask", 1)
    if pixels.shape[:2] != shape[:2]:
        raise ValueError(
            f"--mask {path} is {_size(pixels.shape)}, and the images are {_size(shape)}"
        )
    return pixels < WHITE / 2


def repeated(images: np.ndarray, num: int, path: str) -> np.ndarray:
    """One image for each of `num` samples: a single one for all of them, or N = num in turn.

    Raises ValueError for another number of images.
    """
    if len(images) == 1:
        return np.repeat(images, num, axis=0)
    if len(images) != num:
        raise ValueError(f"{path} has {len(images)} images, so --num must be {len(images)}")
    return images


def _pixels(path: str, option: str, channels: int) -> np.ndarray:
    if channels not in (1, 3, 4):
        raise ValueError(f"{option}: no picture has {channels} channels; give an .npz file")
    file = epath.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{option} {path} does not exist")
    return Decoder(channels=channels).decode(file.read_bytes(), path)


def _array(path: str, option: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        name = "image" if "image" in arrays.files else arrays.files[0] if arrays.files else ""
        if not name or (name != "image" and len(arrays.files) > 1):
            raise ValueError(f"{option} {path} has no array `image`, only {arrays.files}")
        return arrays[name]


def _size(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        height, width, channels = shape
        return f"{height}x{width} with {channels} channel{'s' if channels != 1 else ''}"
    return str(shape)
