"""A folder of images, with a class for each of its subfolders, or captions, or neither."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from sde_diffusion.data.encoded import encoded_images
from sde_diffusion.data.feature import Feature
from sde_diffusion.data.formats.captions import Captions
from sde_diffusion.data.formats.listing import list_images
from sde_diffusion.data.formats.strings import Strings
from sde_diffusion.data.images import SUFFIXES, Decoder
from sde_diffusion.data.source import Source


def folder(
    path: str,
    channels: int = 3,
    size: int | tuple[int, int] | None = None,
    fit: str = "crop",
    background: str = "white",
    labels: bool = True,
    captions: str | None = None,
    file_field: str = "file_name",
    text_field: str = "text",
    missing_captions: str = "error",
    memory: float = 1.0,
) -> Source:
    """The images below `path`, decoded when they are read: `image`, `label` and `text`.

    No image is opened to list them, so that a large folder starts at once: the names of a million
    files take seconds, and are then kept in the user's cache folder. Records are in the order of
    the names, or of the lines of a table of captions. Hidden files and folders and `__MACOSX` are
    skipped.

    Args:
        path: the folder.
        channels, size, fit, background: how images become arrays, as in `images.Decoder`.
        labels: whether the folders in `path` are classes. They are numbered in the order of their
            names, as numbers where all of them are numbers; the features hold the names. Without
            folders there are no labels.
        captions, file_field, text_field, missing_captions: where captions are, as in
            `captions.Captions`; None for no `text`.
        memory: GiB. Where all decoded images fit in it, each is kept after its first use.

    Raises:
        FileNotFoundError: there is no such folder, or no such table.
        ValueError: it holds no images; or images both beside and inside of folders that are
            classes; captions are missing or malformed; or images have different sizes.
    """
    decoder = Decoder(channels, size, fit, background)
    wanted = (
        None if captions is None else Captions(captions, file_field, text_field, missing_captions)
    )
    if not Path(path).is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    listing = list_images(path)
    if not len(listing.files):
        raise ValueError(f"{path}: no images in this folder (suffixes: {' '.join(SUFFIXES)})")
    found = _classes(path, listing.files) if labels else None
    rows, texts = np.arange(len(listing.files)), None
    others = {}
    if wanted is not None:
        rows, texts = wanted.of(path, listing)
        if not len(rows):
            raise ValueError(f"{path}: no image in this folder has a caption")
        others["text"] = Feature((), "str")
    label = None
    if found is not None:
        names, of_file = found
        label = of_file[rows]
        counts = tuple(np.bincount(label, minlength=len(names)).tolist())
        others["label"] = Feature((), "int32", classes=names, counts=counts)
    reader = _Files(path, listing.files, rows, label, texts, beside=captions == "txt")
    return encoded_images(path, reader, others, decoder, memory)


class _Files:
    """Reads image files, and the text files beside them."""

    def __init__(
        self,
        root: str,
        files: Strings,
        rows: np.ndarray,
        label: np.ndarray | None,
        texts: Strings | None,
        beside: bool,
    ) -> None:
        self._root, self._files, self._rows = root, files, rows
        self._label, self._texts, self._beside = label, texts, beside

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, index: int) -> str:
        return os.path.join(self._root, self._files[int(self._rows[index])])

    def read(self, index: int) -> dict[str, Any]:
        path = self.where(index)
        record: dict[str, Any] = {"image": Path(path).read_bytes()}
        if self._label is not None:
            record["label"] = self._label[index]
        if self._texts is not None:
            record["text"] = self._texts[index]
        elif self._beside:
            record["text"] = _text_beside(path)
        return record


def _text_beside(path: str) -> str:
    file = os.path.splitext(path)[0] + ".txt"
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except FileNotFoundError:  # with missing_captions="empty"; else it was found in the listing
        return ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 ({error})") from error


def _classes(path: str, files: Strings) -> tuple[tuple[str, ...], np.ndarray] | None:
    """(names of the classes, int32 [N] the class of each file); None without folders."""
    tops = [name.partition("/")[0] if "/" in name else "" for name in files]
    names = set(tops)
    if names == {""}:
        return None
    if "" in names:
        raise ValueError(
            f"{path}: images both beside folders and in them, such as {files[tops.index('')]}; "
            "labels=false takes all of them, without classes"
        )
    numbers = all(name.isascii() and name.isdigit() for name in names)
    ordered = sorted(names, key=(lambda name: (int(name), name)) if numbers else None)
    place = {name: k for k, name in enumerate(ordered)}
    return tuple(ordered), np.array([place[top] for top in tops], np.int32)
