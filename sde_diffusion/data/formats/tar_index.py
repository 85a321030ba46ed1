"""Where the samples of a tar file lie, so that each can be read without the ones before it.

The members of a sample follow each other and have one name up to the first dot of the last part:
`a/0001.jpg`, `a/0001.txt` and `a/0001.cls` are one sample. This is the format of WebDataset. A
member is read at its offset and never written to a file, so its name cannot lead anywhere.
"""

import os
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from sde_diffusion.data.formats import index
from sde_diffusion.data.formats.strings import Strings
from sde_diffusion.data.images import SUFFIXES

ABSENT = -1


def tar_index(path: str) -> index.Arrays:
    """The samples with an image of one tar file, from the cache where the file has not changed.

    Returns:
        image_at, image_size, text_at, text_size: int64 [N], offsets and sizes in bytes; ABSENT for
            a sample without a text.
        label: int64 [N], the number in the sample's .cls; ABSENT without one.
        name_bytes, name_ends: the images' names, as `Strings`.
        stamp: the size and modification time of the file.

    Raises:
        ValueError: it is not a whole, uncompressed tar file, or a .cls holds no number.
    """
    status = os.stat(path)
    stamp = [status.st_size, status.st_mtime_ns]
    return index.cached(
        "tar-1",
        os.path.realpath(path),
        valid=lambda arrays: arrays["stamp"].tolist() == stamp,
        build=lambda: _scan(path, stamp),
    )


def _scan(path: str, stamp: list[int]) -> index.Arrays:
    rows: list[dict[str, Any]] = []
    try:
        with tarfile.open(path, mode="r:") as archive:
            for name, members in _samples(archive):
                row = _row(path, archive, name, members)
                if row is not None:
                    rows.append(row)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole, uncompressed tar file ({error})") from error
    ends = [row[f"{part}_at"] + row[f"{part}_size"] for row in rows for part in ("image", "text")]
    if ends and max(ends) > stamp[0]:
        raise ValueError(f"{path}: this tar file is cut off: a member ends behind its end")
    columns = ("image_at", "image_size", "text_at", "text_size", "label")
    names = Strings.of(row["name"] for row in rows)
    return {
        **{column: np.array([row[column] for row in rows], np.int64) for column in columns},
        "name_bytes": names.blob,
        "name_ends": names.ends,
        "stamp": np.array(stamp, np.int64),
    }


def _samples(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """(name, its members by what follows the first dot) of each sample, in order."""
    current, members = None, dict[str, tarfile.TarInfo]()
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # else it keeps all, a kilobyte each
        folder, _, last = member.name.rpartition("/")
        stem, dot, extension = last.partition(".")
        if not member.isreg() or member.issparse() or not dot or not stem:
            continue
        name = f"{folder}/{stem}" if folder else stem
        if name != current:
            if current is not None:
                yield current, members
            current, members = name, {}
        members[extension.lower()] = member
    if current is not None:
        yield current, members


def _row(
    path: str, archive: tarfile.TarFile, name: str, members: dict[str, tarfile.TarInfo]
) -> dict[str, Any] | None:
    images = [member for key, member in members.items() if f".{key}" in SUFFIXES]
    if not images:
        return None
    row: dict[str, Any] = {"name": images[0].name, "label": ABSENT, "text_at": ABSENT}
    row |= {"image_at": images[0].offset_data, "image_size": images[0].size, "text_size": 0}
    if "txt" in members:
        row |= {"text_at": members["txt"].offset_data, "text_size": members["txt"].size}
    if "cls" in members:
        file = archive.extractfile(members["cls"])
        content = b"" if file is None else file.read(32).strip()
        if not content.isdigit():
            raise ValueError(f"{path}: {name}.cls holds {content!r}, not a class's number")
        row["label"] = int(content)
    return row
