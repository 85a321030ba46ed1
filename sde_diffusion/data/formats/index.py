"""Indices of large data sets, built once and kept in the user's cache folder.

They lie in $XDG_CACHE_HOME/sde_diffusion/index (by default ~/.cache/sde_diffusion/index), one .npz
file for each folder or tar file. Nothing is written beside the data. The cache can be deleted at
any time. A file in it that cannot be read or written is no error: the index is built again.
"""

import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def cached(
    kind: str, path: str, *, valid: Callable[[Arrays], bool], build: Callable[[], Arrays]
) -> Arrays:
    """The arrays of an index: those stored for (kind, path) if they are valid, else `build()`.

    Args:
        kind: what is indexed, such as "tar-1"; change it when the arrays get another meaning.
        path: the absolute path of the data.
        valid: whether stored arrays still describe the data. It may raise KeyError.
        build: makes the arrays, which are then stored.
    """
    name = hashlib.sha256(f"{kind}\n{path}".encode("utf-8", "surrogateescape")).hexdigest()
    file = folder() / f"{name[:32]}.npz"
    stored = _read(file)
    try:
        if stored is not None and valid(stored):
            return stored
    except (KeyError, IndexError):
        pass
    arrays = build()
    _write(file, arrays)
    return arrays


def folder() -> Path:
    """Where indices are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "sde_diffusion" / "index"


def _read(file: Path) -> Arrays | None:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _write(file: Path, arrays: Arrays) -> None:
    """Whole or not at all: several processes may write the same index at once."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as out:
            np.savez(out, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, file)
    except OSError:
        pass
