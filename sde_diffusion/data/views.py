"""Sources made from sources: fewer features, or records that a function changes."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from sde_diffusion.data.feature import Feature, Features
from sde_diffusion.data.source import Batch, Record, Source, take


class Mapped:
    """The records of a source, each changed by a function when it is read.

    Args:
        source: any source.
        features: what the changed records hold.
        function: a record to a record. It is called from several threads.
    """

    def __init__(
        self, source: Source, features: Features, function: Callable[[Record], Record]
    ) -> None:
        self.name, self.features = source.name, features
        self._source, self._function = source, function

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._function(self._source[index])


class Selected:
    """The records of a source with some of their features."""

    def __init__(self, source: Source, features: Features) -> None:
        self.name, self.features = source.name, features
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        return {name: record[name] for name in self.features}

    def take(self, rows: np.ndarray) -> Batch:
        batch = take(self._source, rows)
        return {name: batch[name] for name in self.features}


class Alternating:
    """The records of several sources in turn, each with the weight of its source.

    All of the longest source are there once, and those of the others as often as it takes.

    Args:
        sources: with the same features.
        weights: a number for each.
        name: of the entry of a record that has it.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], name: str) -> None:
        self.name = " and ".join(source.name for source in sources)
        self.features = Features({**sources[0].features, name: Feature((), "float32")})
        self._sources, self._weights, self._entry = tuple(sources), tuple(weights), name

    def __len__(self) -> int:
        return len(self._sources) * max(map(len, self._sources))

    def __getitem__(self, index: int) -> Record:
        turn, which = divmod(index, len(self._sources))
        source = self._sources[which]
        return source[turn % len(source)] | {self._entry: np.float32(self._weights[which])}


class Rows:
    """Some records of a source, in the order of `rows` [N]; one may be there several times."""

    def __init__(self, source: Source, rows: np.ndarray) -> None:
        self.name, self.features = source.name, source.features
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._rows[index])]

    def take(self, rows: np.ndarray) -> Batch:
        return take(self._source, self._rows[rows])


class Beside:
    """The records of a source, each with the rows of arrays that are its own.

    Args:
        source: N records.
        arrays: [M, ...] each.
        features: what the arrays have.
        rows: int [N], which of the M rows are a record's.
    """

    def __init__(
        self,
        source: Source,
        arrays: Mapping[str, np.ndarray],
        features: Mapping[str, Feature],
        rows: np.ndarray,
    ) -> None:
        self.name, self.features = source.name, Features({**source.features, **features})
        self._source, self._arrays, self._rows = source, dict(arrays), rows

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        row = self._rows[index]
        return self._source[index] | {name: array[row] for name, array in self._arrays.items()}


def select(source: Source, names: Iterable[str]) -> Source:
    """The source with these features alone, such as those that a network is conditioned on.

    Raises:
        ValueError: a name is unknown, or no event is among them.
    """
    chosen = list(names)
    unknown = [name for name in chosen if name not in source.features]
    if unknown:
        raise ValueError(
            f"{source.name}: no feature {unknown[0]!r}, only {', '.join(source.features)}"
        )
    return Selected(source, Features({name: source.features[name] for name in chosen}))
