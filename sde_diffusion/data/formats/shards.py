"""The files of a data set that is split into shards, from one path."""

import glob
import os
import re
from pathlib import Path

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def shards(path: str, ending: re.Pattern[str]) -> list[str]:
    """The files that `path` stands for, in the order of their names.

    Args:
        path: a file; a folder, for all files in it with this ending; a pattern such as
            "train-*.tar"; or a range such as "train-{000..099}.tar".
        ending: what the names of the files in a folder match.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if Path(path).is_dir():
        visible = [file for file in Path(path).iterdir() if not file.name.startswith(".")]
        found = [str(file) for file in visible if ending.search(file.name) and file.is_file()]
    elif _RANGE.search(path):
        found = _expanded(path)
    elif glob.has_magic(path) and not os.path.exists(path):
        found = glob.glob(path)
    else:
        found = [path]
    missing = [file for file in found if not os.path.isfile(file)]
    if missing:
        raise FileNotFoundError(f"{missing[0]}: no such file or folder")
    if not found:
        raise FileNotFoundError(f"{path}: no files here whose names match {ending.pattern}")
    return sorted(found)


def _expanded(path: str) -> list[str]:
    """Every range in the path replaced by each of its numbers, padded as its first one."""
    found = _RANGE.search(path)
    if found is None:
        return [path]
    first, last = found.groups()
    numbers = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return [
        rest for n in numbers for rest in _expanded(path[: found.start()] + n + path[found.end() :])
    ]
