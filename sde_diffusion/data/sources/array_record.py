"""ArrayRecord files of tensorflow.Example, as `write_array_record` and tensorflow-datasets write.

One large file in place of a million small ones: it is opened once, copied quickly, and read at
random access.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sde_diffusion.data.encoded import encoded_images
from sde_diffusion.data.feature import Feature, Features
from sde_diffusion.data.formats import example
from sde_diffusion.data.formats.shards import shards
from sde_diffusion.data.images import Decoder
from sde_diffusion.data.in_memory import in_memory_if_it_fits
from sde_diffusion.data.source import Record, Source

FEATURES = "features.json"
SUFFIX = re.compile(r"\.array_?record(-\d+-of-\d+)?$")


def array_record(
    path: str,
    channels: int | None = None,
    size: int | tuple[int, int] | None = None,
    fit: str = "crop",
    background: str = "white",
    classes: int | None = None,
    image_field: str = "image",
    label_field: str | None = "label",
    text_field: str | None = "text",
    memory: float = 1.0,
) -> Source:
    """The records of ArrayRecord files, each of them a tensorflow.Example.

    Where `write_array_record` wrote them, `features.json` beside them describes the records.
    Otherwise they are taken to hold an encoded image, and a label and a text where the first
    record has them, as the files of tensorflow-datasets do.

    Args:
        path: a file, a folder of them, a pattern such as "mnist-train.array_record*", or a range
            such as "data-{000..099}.array_record".
        channels, size, fit, background: how images become arrays, as in `images.Decoder`. By
            default the channels are those of `features.json`, or else 3.
        classes: how many there are. By default as many as `features.json` says, or lines of
            `label.labels.txt`, which tensorflow-datasets writes.
        image_field, label_field, text_field: the Example's names for the image, label and text,
            without `features.json`; None leaves out the label or the text.
        memory: GiB. Where all decoded records fit in it, each is kept after its first use.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a file is not a whole ArrayRecord file, a record is not such an Example, or the
            number of classes is not known.
    """
    files = shards(path, SUFFIX)
    records = _Records(path, files)
    if not len(records):
        raise ValueError(f"{path}: no records in these files")
    beside = Path(files[0]).parent / FEATURES
    if beside.is_file():
        try:
            features = Features.from_json(beside.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{beside}: {error}") from error
        fields = {name: name for name in features}
        if not example.is_image(features.event_name, features.event):
            return in_memory_if_it_fits(_arrays(records, features), memory)
        image = "image"
        others = {name: feature for name, feature in features.items() if name != "image"}
        channels = features.event.shape[2] if channels is None else channels
    else:
        image, named = image_field, {"label": label_field, "text": text_field}
        fields = {name: field for name, field in named.items() if field is not None}
        others = _described(path, records.parse(0), image, fields, classes)
    decoder = Decoder(3 if channels is None else channels, size, fit, background)
    examples = _Examples(records, others, fields, image)
    return encoded_images(path, examples, others, decoder, memory)


def read_arrays(path: str, features: Features) -> Source:
    """The records of ArrayRecord files without encoded images, described by the caller."""
    return _arrays(_Records(path, shards(path, SUFFIX)), features)


def write_array_record(source: Source, folder: str, shard_size: int = 100_000) -> None:
    """Write a source into ArrayRecord files, which the source "array_record" reads back.

    Images are stored as PNG files, so every record comes back exactly.

    Args:
        source: what is written.
        folder: must not hold ArrayRecord files yet; it is made if it is not there.
        shard_size: how many records a file has at most.

    Raises:
        ValueError: the folder holds ArrayRecord files, or shard_size is not at least 1.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    there = [file.name for file in Path(folder).iterdir() if SUFFIX.search(file.name)]
    if there:
        raise ValueError(f"{folder}: holds ArrayRecord files already, such as {there[0]}")
    num = -(-len(source) // shard_size)
    with tqdm(total=len(source), desc="writing", unit="record", delay=2) as bar:
        for k in range(num):
            rows = range(k * shard_size, min((k + 1) * shard_size, len(source)))
            records = (source[i] for i in rows)
            write_shard(os.path.join(folder, shard_name(k, num)), records, source.features, bar)
    # Last: without it the folder is not a whole data set.
    write_features(folder, source.features)


def shard_name(k: int, num: int) -> str:
    """The name of file k out of `num`."""
    return f"data.array_record-{k:05}-of-{num:05}"


def write_shard(file: str, records: Iterable[Record], features: Features, bar: tqdm) -> None:
    """Write records into one ArrayRecord file, which has its name only when it is whole."""
    from array_record.python import array_record_module

    # Without the ending, so that no reader takes it for a file of the data set.
    part = f"{file}.part"
    # Images are compressed already, and the noise in latents hardly can be: by 9 %, for twice the
    # time of reading a record.
    writer = array_record_module.ArrayRecordWriter(part, "group_size:1,uncompressed")
    for record in records:
        writer.write(example.encode(record, features))
        bar.update()
    writer.close()
    os.replace(part, file)


def write_features(folder: str, features: Features) -> None:
    """Write the description of the records beside their files."""
    Path(folder, FEATURES).write_text(features.to_json(), encoding="utf-8")


def _described(
    path: str, first: dict[str, list], image: str, fields: dict[str, str], classes: int | None
) -> dict[str, Feature]:
    """The features beside the image, as the first record has them."""
    if image not in first:
        raise ValueError(
            f"{path}: the first record has no field {image!r}, only "
            f"{', '.join(sorted(first))}; image_field says which one is the image"
        )
    others: dict[str, Feature] = {}
    if fields.get("label") in first:
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        names = folder / f"{fields['label']}.labels.txt"
        if classes is not None:
            known = tuple(str(k) for k in range(classes))
        elif names.is_file():
            known = tuple(names.read_text(encoding="utf-8").splitlines())
        else:
            raise ValueError(
                f"{path}: how many classes there are is not known: give the field classes, or "
                "label_field=None to leave out the labels"
            )
        others["label"] = Feature((), "int32", classes=known)
    if fields.get("text") in first:
        others["text"] = Feature((), "str")
    return others


class _Records:
    """The bytes of each record of several files, by one number."""

    def __init__(self, path: str, files: list[str]) -> None:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        try:
            self._source = ArrayRecordDataSource(files)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path}: not whole ArrayRecord files ({error})") from error
        self.path = path

    def __len__(self) -> int:
        return len(self._source)

    def parse(self, index: int) -> dict[str, list]:
        try:
            return example.parse(self._source[index])
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"{self.path}: record {index}: {error}") from error


class _Examples:
    """Reads Examples: an encoded image as its bytes, the other features as arrays and texts.

    `image` is the Example's name for the encoded image, if there is one. `fields` are its names for
    the features.
    """

    def __init__(
        self,
        records: _Records,
        features: dict[str, Feature],
        fields: dict[str, str],
        image: str | None,
    ) -> None:
        self._records, self._features, self._fields = records, features, fields
        self._image = image

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        return f"{self._records.path}: record {index}"

    def read(self, index: int) -> dict[str, Any]:
        values, record = self._records.parse(index), {}
        try:
            if self._image is not None:
                (record["image"],) = values[self._image]
            for name, feature in self._features.items():
                record[name] = example.decode(values[self._fields[name]], feature)
        except KeyError as error:
            raise ValueError(f"{self.where(index)} has no field {error}") from error
        except ValueError as error:
            raise ValueError(f"{self.where(index)}: {error}") from error
        label = record.get("label")
        if label is not None and not 0 <= label < self._features["label"].num_classes:
            raise ValueError(f"{self.where(index)}: a label of {label}, which is not a class")
        return record


def _arrays(records: "_Records", features: Features) -> Source:
    fields = {name: name for name in features}
    examples = _Examples(records, dict(features), fields, image=None)
    return _Arrays(records.path, examples, features)


class _Arrays:
    """A source of Examples without an encoded image."""

    def __init__(self, name: str, examples: _Examples, features: Features) -> None:
        self.name, self.features, self._examples = name, features, examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        return self._examples.read(index)
