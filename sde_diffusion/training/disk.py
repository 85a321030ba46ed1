"""Where a run is written: a folder of this machine's, or of a bucket; and a full disk.

Paths are etils' `epath`, which has the interface of pathlib for gs:// as well; orbax, tensorstore
and tensorboardX know these addresses by themselves.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from etils import epath


def absolute(path: str | os.PathLike[str]) -> epath.Path:
    """The whole path. (`Path.absolute` takes an address for a relative path: etils 1.15.)"""
    whole = epath.Path(path)
    return whole if whole.is_absolute() else whole.absolute()


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether it is the address of an object store: no disk to fill, no file to append to."""
    return "://" in os.fspath(path)


def write_whole(path: epath.Path, text: str) -> None:
    """Writes a file such that a kill leaves what was there before, or all of the text."""
    if in_bucket(path):  # an object is there once its last byte is
        path.write_text(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".tmp")
    half.write_text(text)
    half.replace(path)


@contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what a full disk makes the block raise into an OSError (ENOSPC) that names `path`."""
    try:
        yield
    except (OSError, ValueError) as error:
        # tensorstore has no error of its own for it: a ValueError with the code in its text.
        told = getattr(error, "errno", None) == errno.ENOSPC
        if not told and f"os_error_code='{errno.ENOSPC}'" not in str(error):
            raise
        raise OSError(errno.ENOSPC, "the disk is full", str(path)) from error
