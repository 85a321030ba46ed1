"""Captions of the images in a folder: a text file beside each image, or one table for all."""

import csv
import json
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sde_diffusion.data.formats.listing import Listing
from sde_diffusion.data.formats.strings import Strings
from sde_diffusion.selection import require_known

MISSING = ("error", "drop", "empty")


class Captioned(NamedTuple):
    """Records of a folder: record i is the image `files[rows[i]]` with the text of `texts`."""

    rows: np.ndarray  # int64 [N], places in the folder's listing
    texts: Strings | None  # [N]; None where each text lies beside its image


@dataclass(frozen=True)
class Captions:
    """Where the captions of a folder of images are.

    Args:
        kind: "txt", a UTF-8 file beside each image with the same name but for the suffix; or the
            name of a table in the folder that ends in .jsonl (an object a line) or .csv (with a
            header), such as "metadata.jsonl" or "captions.csv".
        file_field, text_field: the table's names for the image's path, relative to the table, and
            for its caption. Each line is a record, so an image may have several captions.
        missing: what happens to images without a caption: "error", "drop", or "empty" for the
            caption "".

    Raises:
        ValueError: a field is out of its range.
    """

    kind: str
    file_field: str = "file_name"
    text_field: str = "text"
    missing: str = "error"

    def __post_init__(self) -> None:
        if self.kind != "txt" and not self.kind.endswith((".jsonl", ".csv")):
            raise ValueError(
                f"captions must be 'txt' or the name of a .jsonl or .csv file, got {self.kind!r}"
            )
        require_known("missing_captions", self.missing, MISSING)

    def of(self, root: str, listing: Listing) -> Captioned:
        """The captions of the images below `root`.

        Raises:
            FileNotFoundError: there is no such table.
            ValueError: a line of it is malformed or names a file that is not an image of this
                folder; or images have no caption and `missing` is "error".
        """
        if self.kind == "txt":
            rows = np.arange(len(listing.files))
            absent = rows[~listing.has_text]
            self._refuse(root, listing, absent)
            return Captioned(rows if self.missing == "empty" else rows[listing.has_text], None)
        rows, texts = self._table(root, listing)
        absent = np.setdiff1d(np.arange(len(listing.files)), rows)
        self._refuse(root, listing, absent)
        if self.missing == "empty":
            rows, texts = np.concatenate([rows, absent]), [*texts, *[""] * len(absent)]
        return Captioned(rows, Strings.of(texts))

    def _refuse(self, root: str, listing: Listing, absent: np.ndarray) -> None:
        if self.missing == "error" and len(absent):
            first = os.path.join(root, listing.files[int(absent[0])])
            raise ValueError(no_caption(root, len(absent), len(listing.files), first))

    def _table(self, root: str, listing: Listing) -> tuple[np.ndarray, list[str]]:
        path = os.path.join(root, self.kind)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: no such file")
        place = {name: i for i, name in enumerate(listing.files)}
        below = posixpath.dirname(posixpath.normpath(self.kind.replace(os.sep, "/")))
        rows, texts = [], []
        lines = _json_lines(path) if path.endswith(".jsonl") else _csv_lines(path)
        for number, line in lines:
            for field in (self.file_field, self.text_field):
                if not isinstance(line.get(field), str):
                    raise ValueError(
                        f"{path}, line {number}: no text in the field {field!r}, only in "
                        f"{', '.join(key for key in line if isinstance(line[key], str)) or 'none'}"
                    )
            # Only images that were found below the folder are known, so no path leads out of it.
            name = posixpath.normpath(posixpath.join(below, line[self.file_field]))
            if name not in place:
                raise ValueError(
                    f"{path}, line {number}: {line[self.file_field]!r} is not an image in this "
                    "folder"
                )
            rows.append(place[name])
            texts.append(line[self.text_field])
        return np.array(rows, np.int64), texts


def no_caption(path: str, absent: int, num: int, first: str) -> str:
    """The message that some images of a source have no caption."""
    return (
        f"{path}: {absent} of {num} images have no caption, the first is {first}; "
        "missing_captions=drop leaves them out, missing_captions=empty gives them an empty one"
    )


def _json_lines(path: str) -> Iterator[tuple[int, dict]]:
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(line, dict):
                raise ValueError(f"{path}, line {number}: not a JSON object")
            yield number, line


def _csv_lines(path: str) -> Iterator[tuple[int, dict]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for line in reader:
                yield reader.line_num, line
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
