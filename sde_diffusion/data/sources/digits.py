"""scikit-learn's handwritten digits, which ship with it: no download."""

import numpy as np

from sde_diffusion.data.source import ArraySource, from_arrays


def digits() -> ArraySource:
    """1,797 images [8, 8, 1] of ten classes, whole values 0 ... 16.

    Source: the test set of "Optical recognition of handwritten digits" (Alpaydin & Kaynak 1998,
    UCI), as `sklearn.datasets.load_digits` holds it.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    image = bunch.images.astype(np.uint8)[..., None]
    return from_arrays("digits", {"image": image, "label": bunch.target}, low=0, high=16)
