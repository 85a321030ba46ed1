"""Sources of records: how many there are, what they hold, and record i at random access."""

import functools
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from sde_diffusion.data.feature import EVENTS, Feature, Features

Record = dict[str, Any]  # named arrays; a text is a str
Batch = dict[str, np.ndarray]  # the same names, stacked

_THREAD = threading.local()  # has the attribute `reads` in the threads that read records


class Source(Protocol):
    """A data set of N records.

    `source[i]` for 0 <= i < N is a dict with the names of `source.features` and arrays of their
    shapes and types. It is called from several threads. `name` is used in messages.
    """

    @property
    def name(self) -> str: ...

    @property
    def features(self) -> Features: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


class ArraySource:
    """Records that are the rows of arrays, in memory or mapped from a file.

    Args:
        name: used in messages.
        arrays: [N, ...] each, by the names of `features`.
        features: what the rows hold.

    Raises:
        ValueError: the arrays do not fit the features, or differ in length.
    """

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray], features: Features) -> None:
        self.name, self.arrays, self.features = name, dict(arrays), features
        if self.arrays.keys() != features.keys():
            raise ValueError(f"{name}: arrays {list(arrays)} but features {list(features)}")
        event = self.arrays[features.event_name]
        for key, array in self.arrays.items():
            if len(array) != len(event):
                raise ValueError(
                    f"{name}: {key} must have one row for each of the {len(event)} records, "
                    f"got shape {array.shape}"
                )
            wanted = features[key]
            kind = "str" if array.dtype.kind == "U" else array.dtype.name
            if array.shape[1:] != wanted.shape or kind != wanted.dtype:
                raise ValueError(
                    f"{name}: {key} is {kind} of shape {array.shape}, not {wanted.dtype} of "
                    f"{('N', *wanted.shape)}"
                )

    def __len__(self) -> int:
        return len(self.arrays[self.features.event_name])

    def __getitem__(self, index: int) -> Record:
        return {name: array[index] for name, array in self.arrays.items()}

    def take(self, rows: np.ndarray) -> Batch:
        """The records of `rows` [B], stacked: one gather for each array."""
        return {name: np.asarray(array[rows]) for name, array in self.arrays.items()}


def from_arrays(
    name: str,
    arrays: Mapping[str, np.ndarray],
    *,
    low: float | None = None,
    high: float | None = None,
    classes: Sequence[str] | None = None,
) -> ArraySource:
    """A source of the rows of named arrays.

    Args:
        name: used in messages.
        arrays: one of `image` [N, H, W, C] and `x` [N, *event], uint8 or float; optionally `label`
            [N], whole numbers from 0; and arrays of any other name.
        low, high: the range of the event. For uint8 [0, 255] unless given; for float required.
        classes: the names of the classes. By default "0", "1", ... up to the greatest label.

    Raises:
        ValueError: the arrays are not records of these kinds.
    """
    arrays, features = dict(arrays), {}
    if "label" in arrays:
        arrays["label"], features["label"] = _label(name, arrays["label"], classes)
    elif classes is not None:
        raise ValueError(f"{name}: classes are given, but no label")
    events = [key for key in EVENTS if key in arrays]
    for key, array in arrays.items():
        if key == "label":
            continue
        kind = "str" if array.dtype.kind == "U" else array.dtype.name
        ends = (low, high) if key in events[:1] else (None, None)
        if kind == "uint8":
            ends = (0 if ends[0] is None else ends[0], 255 if ends[1] is None else ends[1])
        try:
            features[key] = Feature(array.shape[1:], kind, *ends)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {key}: {error}") from error
    try:
        described = Features({key: features[key] for key in arrays})
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return ArraySource(name, arrays, described)


def take(source: Source, rows: np.ndarray) -> Batch:
    """The records of `rows` [B], stacked: a dict of arrays [B, ...]; texts as an array of str.

    Raises:
        ValueError: a record is not what the features say, or has a value that is not finite.
    """
    gather = getattr(source, "take", None)
    batch = stack(source, rows) if gather is None else gather(rows)
    for name, array in batch.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            axes = tuple(range(1, array.ndim))
            bad = int(np.argmin(np.isfinite(array).all(axis=axes)))
            value = array[bad][~np.isfinite(array[bad])][0]
            raise ValueError(f"{source.name}: record {rows[bad]} has a {value} in {name}")
    return batch


def stack(source: Source, rows: np.ndarray) -> Batch:
    """`take` for a source that gives one record at a time, by threads that share the rows.

    Decoding an image releases the interpreter's lock, so threads decode in parallel.

    Raises:
        ValueError: a record lacks a feature, or has another shape.
    """
    pool, size = _threads()

    def read(part: np.ndarray) -> list[Record]:
        return [source[int(row)] for row in part]

    if hasattr(_THREAD, "reads"):  # a source made of sources: waiting for the pool could be forever
        records = read(rows)
    else:
        parts = np.array_split(np.asarray(rows), min(size, len(rows)) or 1)
        records = [record for part in pool.map(read, parts) for record in part]
    return {name: _stacked(source, name, rows, records) for name in source.features}


def _stacked(source: Source, name: str, rows: np.ndarray, records: list[Record]) -> np.ndarray:
    feature = source.features[name]
    for row, record in zip(rows, records, strict=True):
        if name not in record:
            raise ValueError(f"{source.name}: record {row} has no {name}")
        if np.shape(record[name]) != feature.shape:
            raise ValueError(
                f"{source.name}: {name} of record {row} has shape {np.shape(record[name])}, "
                f"not {feature.shape}"
            )
    column = [record[name] for record in records]
    if feature.dtype == "str":
        return np.array(column, np.str_)
    return np.array(column, feature.dtype).reshape(len(column), *feature.shape)


@functools.cache
def _threads() -> tuple[ThreadPoolExecutor, int]:
    size = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    size = min(size, 32)  # beyond which the interpreter's lock is what is waited for
    return ThreadPoolExecutor(size, "decode", lambda: setattr(_THREAD, "reads", True)), size


def _label(
    name: str, label: np.ndarray, classes: Sequence[str] | None
) -> tuple[np.ndarray, Feature]:
    if label.dtype.kind not in "iu" or label.ndim != 1 or (label.size and label.min() < 0):
        raise ValueError(
            f"{name}: labels must be whole numbers [N] of at least 0, "
            f"got {label.dtype} {label[:3]}..."
        )
    greatest = int(label.max()) if label.size else -1
    names = tuple(map(str, range(greatest + 1))) if classes is None else tuple(classes)
    if greatest >= len(names):
        raise ValueError(f"{name}: a label of {greatest}, not in 0 ... {len(names) - 1}")
    counts = tuple(np.bincount(label, minlength=len(names)).tolist())
    return label.astype(np.int32), Feature((), "int32", classes=names, counts=counts)
