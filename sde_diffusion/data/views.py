"""Sources made from sources: fewer features, or records that a function changes."""

from collections.abc import Callable, Iterable

import numpy as np

from sde_diffusion.data.feature import Features
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
