"""A full disk, told in one way whichever library met it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turns what a full disk makes the block raise into an OSError (ENOSPC) that names `path`."""
    try:
        yield
    except (OSError, ValueError) as error:
        # tensorstore has no error of its own for it: a ValueError with the code in its text.
        told = getattr(error, "errno", None) == errno.ENOSPC
        if not told and f"os_error_code='{errno.ENOSPC}'" not in str(error):
            raise
        raise OSError(errno.ENOSPC, "the disk is full", str(path)) from error
