"""Paths that a run is written to, on this machine or in a bucket, and errors of a full disk.

Paths are etils' `epath`, which has the interface of pathlib for gs:// as well. Orbax, tensorstore
and tensorboardX accept these addresses too.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from etils import epath


def absolute(path: str | os.PathLike[str]) -> epath.Path:
    """The absolute path. (`Path.absolute` of etils 1.15 treats an address as a relative path.)"""
    whole = epath.Path(path)
    return whole if whole.is_absolute() else whole.absolute()


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether the path is in an object store, which has no free space to check and no appending."""
    return "://" in os.fspath(path)


def write_whole(path: epath.Path, contents: str | bytes) -> None:
    """Writes a file atomically: after a kill it has either its old contents or all of the new."""
    encoded = contents.encode() if isinstance(contents, str) else contents
    if in_bucket(path):  # an object appears when its last byte is written
        path.write_bytes(encoded)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".tmp")
    half.write_bytes(encoded)
    half.replace(path)


@contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raises an OSError (ENOSPC) that names `path` in place of any error due to a full disk."""
    try:
        yield
    except (OSError, ValueError) as error:
        # tensorstore raises a ValueError with the error code in its text.
        is_full = getattr(error, "errno", None) == errno.ENOSPC
        if not is_full and f"os_error_code='{errno.ENOSPC}'" not in str(error):
            raise
        raise OSError(errno.ENOSPC, "the disk is full", str(path)) from error
