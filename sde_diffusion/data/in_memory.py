"""Records kept in memory after their first use."""

import threading

import numpy as np

from sde_diffusion.data.source import Batch, Record, Source, stack

GIB = 2**30


def in_memory_if_it_fits(source: Source, gib: float) -> Source:
    """The source, with its records kept in memory where all of them take at most `gib` GiB.

    Texts are not counted.
    """
    size = sum(
        int(np.prod(feature.shape)) * np.dtype(feature.dtype).itemsize
        for feature in source.features.values()
        if feature.dtype != "str"
    )
    return InMemory(source) if len(source) * size <= gib * GIB else source


class InMemory:
    """The records of a source, each computed once and then kept.

    The first epoch costs what the source costs, later ones a gather. Memory is allocated as
    records are kept.

    Args:
        source: all its records must fit in memory.
    """

    def __init__(self, source: Source) -> None:
        self.name, self.features = source.name, source.features
        self._source = source
        self._kept: Batch = {
            name: np.empty((len(source), *feature.shape), _dtype(feature.dtype))
            for name, feature in source.features.items()
        }
        self._is_kept = np.zeros(len(source), bool)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return {name: array[0] for name, array in self.take(np.array([index])).items()}

    def take(self, rows: np.ndarray) -> Batch:
        """The records of `rows` [B], stacked."""
        missing = np.unique(rows[~self._is_kept[rows]])
        if len(missing):
            made = stack(self._source, missing)
            with self._lock:
                for name, array in made.items():
                    self._kept[name][missing] = array
                self._is_kept[missing] = True
        return {name: _plain(array[rows]) for name, array in self._kept.items()}


def _dtype(name: str) -> np.dtype:
    return np.dtype(object if name == "str" else name)  # texts take their own lengths


def _plain(array: np.ndarray) -> np.ndarray:
    return np.array(array.tolist(), np.str_) if array.dtype == object else array
