"""The images below a folder: their names alone, without opening a file."""

import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sde_diffusion.data.formats import index
from sde_diffusion.data.formats.strings import Strings
from sde_diffusion.data.images import SUFFIXES

# A smaller folder is listed in less time than its index takes to find and check.
CACHED_FROM = 10_000


class Listing(NamedTuple):
    """The images below a folder, in the order of their names."""

    files: Strings  # relative to the folder, with "/" between the parts
    has_text: np.ndarray  # bool [N]: whether there is a .txt file beside the image


def list_images(root: str) -> Listing:
    """All images below `root`, from its index where that is up to date.

    Hidden files and folders and `__MACOSX` are skipped; links are followed. The index is up to
    date while every folder has the modification time that it had: adding, removing or renaming a
    file changes that of its folder.

    Raises:
        OSError: a folder cannot be read.
    """
    path = os.path.realpath(root)

    def valid(arrays: index.Arrays) -> bool:
        folders = Strings(arrays["folder_bytes"], arrays["folder_ends"])
        try:
            times = [os.stat(os.path.join(path, name)).st_mtime_ns for name in folders]
        except OSError:
            return False
        return bool(np.array_equal(times, arrays["folder_times"]))

    if _is_large(path):
        found = index.cached("folder-1", path, valid=valid, build=lambda: _scan(path))
    else:
        found = _scan(path)
    return Listing(Strings(found["file_bytes"], found["file_ends"]), found["has_text"])


def _is_large(path: str) -> bool:
    return sum(1 for _ in itertools.islice(_walk(path), CACHED_FROM)) == CACHED_FROM


def _walk(path: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(name relative to `path`, entry) of every visible entry below a folder."""
    folders: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", (_identity(path),))]
    while folders:
        folder, above = folders.pop()
        with os.scandir(os.path.join(path, folder)) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                name = os.path.join(folder, entry.name)
                yield name, entry
                if entry.is_dir():
                    identity = _identity(entry.path)
                    if identity not in above:  # else it is a link to a folder that holds it
                        folders.append((name, (*above, identity)))


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _scan(path: str) -> dict[str, np.ndarray]:
    images, texts = [], set()
    # The time of a folder is taken before its names are read, so that a change in between makes
    # the index out of date.
    times = {"": os.stat(path).st_mtime_ns}
    for name, entry in _walk(path):
        stem, suffix = os.path.splitext(name)
        if entry.is_dir():
            times[name] = entry.stat().st_mtime_ns
        elif suffix.lower() in SUFFIXES:
            images.append(name)
        elif suffix.lower() == ".txt":
            texts.add(stem)
    images.sort()
    has_text = [os.path.splitext(name)[0] in texts for name in images]
    files, folders = Strings.of(images), Strings.of(times)
    return {
        "file_bytes": files.blob,
        "file_ends": files.ends,
        "has_text": np.array(has_text, bool),
        "folder_bytes": folders.blob,
        "folder_ends": folders.ends,
        "folder_times": np.array(list(times.values()), np.int64),
    }
