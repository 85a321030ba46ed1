"""Images that a user gives on the command line: a picture, or several in an .npz file."""

import numpy as np
from etils import epath

from sde_diffusion.data import Feature
from sde_diffusion.data.images import Decoder

WHITE = 255


def read(path: str, option: str, feature: Feature, shape: tuple[int, ...]) -> np.ndarray:
    """The images of a file as float32 [N, *shape], in the feature's own units.

    A picture is one image, whose black and white are the ends of the feature's range. An .npz file
    holds N under `image`, or under its only name, in the feature's own units.

    Raises ValueError that names the option for images of another shape than `shape`.
    """
    images = _images(path, option, feature, shape[-1])
    if images.shape[1:] != shape:
        raise ValueError(
            f"{option} {path} is {_size(images.shape[1:])}, and {_size(shape)} is needed"
        )
    return images


def size(path: str, option: str, feature: Feature) -> tuple[int, int]:
    """The height and width of a file's images."""
    height, width, *_ = _images(path, option, feature, feature.shape[-1]).shape[1:]
    return height, width


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
    """The image of each of `num` samples: as many samples for each of the N images, in turn.

    Raises ValueError where N does not divide num.
    """
    if num % len(images):
        raise ValueError(f"{path} has {len(images)} images, which do not divide --num {num}")
    return np.repeat(images, num // len(images), axis=0)


def _images(path: str, option: str, feature: Feature, channels: int) -> np.ndarray:
    if path.endswith(".npz"):
        images = _array(path, option)
        if images.ndim != 4:
            raise ValueError(f"{option} {path} must hold images [N, H, W, C], got {images.shape}")
        return images.astype(np.float32)
    low, high = feature.range
    pixels = _pixels(path, option, channels)
    return (low + (high - low) / WHITE * pixels.astype(np.float32))[None]


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
