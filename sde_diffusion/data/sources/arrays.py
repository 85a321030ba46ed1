"""Arrays in NumPy's own files, read as data: a pickled object in one is an error."""

import os
import zipfile
import zlib
from typing import Any

import numpy as np

from sde_diffusion.data.source import ArraySource, from_arrays


def npz(path: str, low: float | None = None, high: float | None = None) -> ArraySource:
    """The arrays of a .npz file in memory, by their names: `image` or `x`, `label`, any other.

    Args:
        path: the file.
        low, high: the range of the data; for uint8 [0, 255] unless given, for float required.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a .npz of arrays with equally many rows, has neither `image` nor
            `x`, or the range of its data is not known.
    """
    archive = _read(path)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: this is a .npy file: use the source 'npy'")
    with archive:
        arrays = {name: _member(path, archive, name) for name in archive.files}
    return from_arrays(path, arrays, low=low, high=high)


def npy(
    path: str, labels: str | None = None, low: float | None = None, high: float | None = None
) -> ArraySource:
    """The array [N, *event] of a .npy file, mapped and not read: it may exceed the memory.

    Events of three dimensions are images [H, W, C], the feature `image`; others are `x`.

    Args:
        path: the file.
        labels: a .npy file of labels [N], or None.
        low, high: as for `npz`.

    Raises:
        FileNotFoundError, ValueError: as for `npz`.
    """
    x = _read(path)
    y = None if labels is None else _read(labels)
    for file, array in ((path, x), (labels, y)):
        if isinstance(array, np.lib.npyio.NpzFile):
            raise ValueError(f"{file}: this is a .npz file: use the source 'npz'")
    event = "image" if x.ndim == 4 else "x"
    arrays = {event: x} if y is None else {event: x, "label": y}
    return from_arrays(path, arrays, low=low, high=high)


def _read(path: str) -> Any:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a whole .npy or .npz file of numbers ({error})") from error


def _member(path: str, archive: Any, name: str) -> np.ndarray:
    try:
        return archive[name]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: cannot read the array {name!r} ({error})") from error
