"""CIFAR-10 in its official binary archive."""

import tarfile
import zlib
from pathlib import Path

import numpy as np

from sde_diffusion.data.source import ArraySource, from_arrays

_SPLITS = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
# The order of batches.meta.txt in the archive.
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_RECORD = 1 + 3 * 32 * 32  # the label, then the red, green and blue planes, row by row
_LARGEST = 10_000 * _RECORD


def cifar10(path: str, split: str = "train") -> ArraySource:
    """50,000 (train) or 10,000 (test) images [32, 32, 3] of ten classes, uint8.

    The version for Python and the one for Matlab are not read: the former is a pickle, which can
    run code of its author's choice.

    Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html, "binary version".

    Args:
        path: cifar-10-binary.tar.gz, or the folder of .bin files that is in it.
        split: "train" or "test".

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the split is unknown, a file of it is missing, or it is not in this format.
    """
    if split not in _SPLITS:
        raise ValueError(f"cifar10: split must be one of {', '.join(_SPLITS)}, got {split!r}")
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    read = _read_folder if Path(path).is_dir() else _read_archive
    contents = read(path, _SPLITS[split])
    for name in _SPLITS[split]:
        if name not in contents:
            raise ValueError(f"{path}: no {name} in it: is it cifar-10-binary.tar.gz, or its .bin?")
    for name, content in contents.items():
        if not content or len(content) % _RECORD:
            raise ValueError(f"{path}: {name} is not whole records of {_RECORD} bytes")
    records = np.frombuffer(b"".join(contents.values()), np.uint8).reshape(-1, _RECORD)
    y = records[:, 0].astype(np.int32)
    if y.max() > 9:
        raise ValueError(f"{path}: a label of {y.max()}, not in 0 ... 9")
    x = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return from_arrays("cifar10", {"image": x, "label": y}, classes=CLASSES)


def _read_folder(path: str, names: list[str]) -> dict[str, bytes]:
    return {name: file.read_bytes() for name in names if (file := Path(path, name)).is_file()}


def _read_archive(path: str, names: list[str]) -> dict[str, bytes]:
    """The named files of the archive, in memory: nothing of it is written to disk."""
    contents = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if name in names and member.isfile() and member.size <= _LARGEST:
                    contents[name] = archive.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a whole tar archive ({error})") from error
    return {name: contents[name] for name in names if name in contents}
