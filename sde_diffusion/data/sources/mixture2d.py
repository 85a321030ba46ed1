"""Exact samples of a grid of Gaussians in the plane: data that an MLP learns in seconds."""

import numpy as np

from sde_diffusion.data.source import ArraySource, from_arrays

SIDE, SPACING, STD = 5, 0.5, 0.05


def mixture2d(num: int = 100_000, seed: int = 0) -> ArraySource:
    """x ~ mean_k N(mu_k, 0.05^2 I) in two dimensions, mu_k on a 5 x 5 grid of spacing 0.5.

    The label is the component k, from the lower left, row by row. The range [-1, 1] is that of
    the centres, so scaling to [-1, 1] changes nothing.

    Args:
        num: how many samples, each independent of the others.
        seed: the same seed, the same samples.

    Raises:
        ValueError: num < 1.
    """
    if num < 1:
        raise ValueError(f"mixture2d: num must be at least 1, got {num}")
    rng = np.random.default_rng(seed)
    y = rng.integers(SIDE**2, size=num, dtype=np.int32)
    row, column = np.divmod(y, SIDE)
    centres = SPACING * (np.stack([column, row], axis=-1) - (SIDE - 1) / 2)
    x = centres + STD * rng.standard_normal((num, 2))
    arrays = {"x": x.astype(np.float32), "label": y}
    classes = [str(k) for k in range(SIDE**2)]
    return from_arrays("mixture2d", arrays, low=-1, high=1, classes=classes)
