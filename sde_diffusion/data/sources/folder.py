"""A folder of images, with a class for each of its subfolders."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sde_diffusion.data.source import ArraySource, from_arrays

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def folder(path: str, channels: int = 3) -> ArraySource:
    """All images below `path`, uint8 [N, H, W, channels]; labels from its sorted subfolders.

    Files are sorted by name and those without an image's suffix ignored. Every image is decoded
    when the source is made, into one array in memory: a broken file then stops a run before it
    starts, not hours into it, and an epoch costs no decoding. For a folder larger than memory,
    write the array once as .npy, which the source `npy` maps.

    Args:
        path: the folder. With subfolders each is a class, in sorted order; without, no labels.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA), to which every image is converted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no images; or images both beside and inside subfolders; an image
            cannot be read (named), has more than 8 bits a channel, or another size than the rest.
    """
    if channels not in _MODES:
        raise ValueError(f"folder: channels must be 1, 3 or 4, got {channels}")
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    classes = sorted(p for p in root.iterdir() if p.is_dir() and _images(p.rglob("*")))
    loose = _images(root.iterdir())
    if classes and loose:
        raise ValueError(f"{path}: images both beside subfolders and in them, such as {loose[0]}")
    by_class = [_images(p.rglob("*")) for p in classes] or [loose]
    files = [file for group in by_class for file in group]
    if not files:
        raise ValueError(f"{path}: no images in this folder (suffixes: {' '.join(_SUFFIXES)})")

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter's lock
        images = list(pool.map(lambda file: _decode(file, _MODES[channels]), files))
    example_of = {image.shape[:2]: file for image, file in zip(images, files, strict=True)}
    if len(example_of) > 1:
        sizes = ", ".join(f"{w}x{h} ({file})" for (h, w), file in sorted(example_of.items()))
        raise ValueError(f"{path}: images of {len(example_of)} sizes, all must be equal: {sizes}")
    x = np.stack(images).reshape(len(files), *images[0].shape[:2], channels)
    if not classes:
        return from_arrays(path, {"image": x})
    y = np.repeat(np.arange(len(classes), dtype=np.int32), [len(group) for group in by_class])
    names = [folder.name for folder in classes]
    return from_arrays(path, {"image": x, "label": y}, classes=names)


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted(p for p in paths if p.suffix.lower() in _SUFFIXES and p.is_file())


def _decode(file: Path, mode: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):  # PIL would clip 16 bits to 8, not scale them
                raise ValueError(f"mode {image.mode}, more than 8 bits a channel")
            return np.asarray(image.convert(mode))
    except Exception as error:  # on broken files Pillow raises a dozen unrelated types
        raise ValueError(f"{file}: cannot read this image ({error})") from error
