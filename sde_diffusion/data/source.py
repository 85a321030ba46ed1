"""What a data set is: rows that can be picked at random, and the range of their values."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Source:
    """N events x_i in [low, high], with a label each where there are classes.

    Args:
        name: the name it was loaded by.
        x: [N, *event], uint8 or float; an array in memory or mapped from a file.
        y: int32 [N] in [0, num_classes), or None.
        low, high: the range of the data's values, in the data's own units.
        num_classes: 0 where y is None.
    """

    name: str
    x: np.ndarray
    y: np.ndarray | None
    low: float
    high: float
    num_classes: int

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"{self.name}: low must be below high, got {self.low}, {self.high}")
        if (self.y is None) != (self.num_classes == 0):
            raise ValueError(f"{self.name}: num_classes must be 0 if and only if there is no y")
        if self.y is not None and len(self.y) != len(self.x):
            raise ValueError(f"{self.name}: {len(self.x)} events but {len(self.y)} labels")

    def __len__(self) -> int:
        return len(self.x)
