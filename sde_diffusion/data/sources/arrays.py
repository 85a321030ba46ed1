"""Arrays in NumPy's own files, read as data: a pickled object in one is an error."""

import os
import zipfile
import zlib
from typing import Any

import numpy as np

from sde_diffusion.data.source import Source


def npz(path: str, low: float | None = None, high: float | None = None) -> Source:
    """`x` [N, *event] and, where the file has it, `y` [N] of a .npz file, held in memory.

    Args:
        path: the file.
        low, high: the range of the data; for uint8 [0, 255] unless given, for float required.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a .npz of numeric arrays, has no `x`, or its range is not known.
    """
    archive = _read(path)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: this is a .npy file: use the source 'npy'")
    with archive:
        if "x" not in archive.files:
            raise ValueError(f"{path}: no array 'x' in it, only {', '.join(archive.files)}")
        x = _member(path, archive, "x")
        y = _member(path, archive, "y") if "y" in archive.files else None
    return _source(path, x, y, low, high)


def npy(
    path: str, labels: str | None = None, low: float | None = None, high: float | None = None
) -> Source:
    """The array [N, *event] of a .npy file, mapped and not read: it may exceed the memory.

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
    return _source(path, x, y, low, high)


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


def _source(
    path: str, x: np.ndarray, y: np.ndarray | None, low: float | None, high: float | None
) -> Source:
    if x.dtype == np.uint8:
        low, high = 0 if low is None else low, 255 if high is None else high
    if low is None or high is None:
        raise ValueError(f"{path}: data of {x.dtype} needs its range, the fields low and high")
    if y is None:
        return Source(path, x, None, low, high)
    if y.dtype.kind not in "iu" or y.size == 0 or y.min() < 0:
        raise ValueError(
            f"{path}: labels must be whole numbers of at least 0, got {y.dtype} {y[:3]}..."
        )
    return Source(path, x, y.astype(np.int32), low, high, num_classes=int(y.max()) + 1)
