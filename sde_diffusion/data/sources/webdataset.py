"""Tar files of images, texts and classes, as WebDataset writes them, read at random access."""

import bisect
import os
import re
from typing import Any

import numpy as np
from tqdm import tqdm

from sde_diffusion.data.encoded import encoded_images
from sde_diffusion.data.feature import Feature
from sde_diffusion.data.formats.captions import MISSING, no_caption
from sde_diffusion.data.formats.shards import shards
from sde_diffusion.data.formats.strings import Strings
from sde_diffusion.data.formats.tar_index import ABSENT, tar_index
from sde_diffusion.data.images import Decoder
from sde_diffusion.data.source import Source
from sde_diffusion.selection import require_known

TAR = re.compile(r"\.tar$")


def webdataset(
    path: str,
    channels: int = 3,
    size: int | tuple[int, int] | None = None,
    fit: str = "crop",
    background: str = "white",
    labels: bool = True,
    captions: bool = True,
    missing_captions: str = "error",
    memory: float = 1.0,
) -> Source:
    """The samples of tar files: `image`, and `label` and `text` where the samples have them.

    Each tar file is indexed once, at its first use; the index is kept in the user's cache folder.
    Of a sample NAME the image is NAME.jpg, .png, ..., the text NAME.txt and the label the number in
    NAME.cls. Samples without an image are skipped.

    Source: https://github.com/webdataset/webdataset, "The WebDataset Format".

    Args:
        path: a .tar file, a folder of them, a pattern, or a range such as "train-{000..099}.tar".
        channels, size, fit, background: how images become arrays, as in `images.Decoder`.
        labels, captions: False leaves out the `label` or the `text`.
        missing_captions: what happens where some samples have a text and others have none:
            "error", "drop" or "empty".
        memory: GiB. Where all decoded images fit in it, each is kept after its first use.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a file is not an uncompressed tar file; there are no images; texts or labels
            are missing; or images have different sizes.
    """
    decoder = Decoder(channels, size, fit, background)
    require_known("missing_captions", missing_captions, MISSING)
    files = shards(path, TAR)
    parts = [tar_index(file) for file in tqdm(files, desc="indexing", unit="file", delay=2)]
    if not sum(len(part["image_at"]) for part in parts):
        raise ValueError(f"{path}: no images in these tar files")
    tars = _Tars(files, parts, np.arange(sum(len(part["image_at"]) for part in parts)))

    others: dict[str, Feature] = {}
    has_text = np.concatenate([part["text_at"] for part in parts]) != ABSENT
    if captions and has_text.any():
        others["text"] = Feature((), "str")
        absent = np.flatnonzero(~has_text)
        if len(absent) and missing_captions == "error":
            raise ValueError(no_caption(path, len(absent), len(tars), tars.where(int(absent[0]))))
        if missing_captions == "drop":
            tars = _Tars(files, parts, np.flatnonzero(has_text))
    label = np.concatenate([part["label"] for part in parts])[tars.rows]
    if labels and (label != ABSENT).any():
        if label.min() == ABSENT:
            without = np.flatnonzero(label == ABSENT)
            raise ValueError(
                f"{path}: {len(without)} of {len(label)} samples have no .cls, the first is "
                f"{tars.where(int(without[0]))}; labels=false leaves out all of them"
            )
        counts = np.bincount(label).tolist()
        names = tuple(str(k) for k in range(len(counts)))
        others["label"] = Feature((), "int32", classes=names, counts=tuple(counts))
    return encoded_images(path, tars, others, decoder, memory)


class _Tars:
    """Reads samples at their offsets in tar files."""

    def __init__(self, files: list[str], parts: list[dict[str, np.ndarray]], rows: np.ndarray):
        self.rows = rows
        self._files, self._parts = files, parts
        self._names = [Strings(part["name_bytes"], part["name_ends"]) for part in parts]
        self._ends = np.cumsum([len(part["image_at"]) for part in parts]).tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> str:
        shard, place = self._place(index)
        return f"{self._files[shard]}: {self._names[shard][place]}"

    def read(self, index: int) -> dict[str, Any]:
        shard, place = self._place(index)
        part = self._parts[shard]
        record: dict[str, Any] = {"label": np.int32(part["label"][place]), "text": ""}
        # Opened anew for each sample, which takes microseconds: no more files are open than are
        # read at this moment, however many shards there are.
        handle = os.open(self._files[shard], os.O_RDONLY)
        try:
            at, size = int(part["image_at"][place]), int(part["image_size"][place])
            record["image"] = os.pread(handle, size, at)
            if part["text_at"][place] != ABSENT:
                text = os.pread(handle, int(part["text_size"][place]), int(part["text_at"][place]))
                record["text"] = text.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.where(index)}: its .txt is not UTF-8 ({error})") from error
        finally:
            os.close(handle)
        return record

    def _place(self, index: int) -> tuple[int, int]:
        row = int(self.rows[index])
        shard = bisect.bisect_right(self._ends, row)
        return shard, row - (self._ends[shard - 1] if shard else 0)
