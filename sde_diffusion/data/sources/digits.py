"""scikit-learn's handwritten digits, which ship with it: no download."""

import numpy as np

from sde_diffusion.data.source import ArraySource, from_arrays
from sde_diffusion.selection import choose

PARTS = {"all": slice(None), "train": slice(1500), "test": slice(1500, None)}


def digits(size: int = 8, part: str = "all") -> ArraySource:
    """1,797 images [size, size, 1] of ten classes, values from 0 to 16.

    At the size 8 they are the whole numbers of the data set, and at 4 or 2 means over its pixels.
    The part "train" is the first 1,500, "test" the other 297; "all" is both.

    Source: the test set of "Optical recognition of handwritten digits" (Alpaydin & Kaynak 1998,
    UCI), as `sklearn.datasets.load_digits` holds it.

    Raises:
        ValueError: size is not 8, 4 or 2, or the part is unknown.
    """
    if size not in (8, 4, 2):
        raise ValueError(f"digits: size must be 8, 4 or 2, got {size}")
    rows = choose("part of digits", part, PARTS)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    blocks = bunch.images.reshape(-1, size, 8 // size, size, 8 // size)
    image = blocks.mean(axis=(2, 4))[..., None].astype(np.uint8 if size == 8 else np.float32)
    return from_arrays(
        "digits", {"image": image[rows], "label": bunch.target[rows]}, low=0, high=16
    )
