"""What a data set is: rows that can be picked at random, and the range of their values."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Source:
    """N events x_i in [low, high], with a label each where there are classes.

    Args:
        name: what it is called in messages.
        x: [N, *event], uint8 or float; an array in memory, or mapped from a file.
        y: int32 [N] in [0, num_classes), or None.
        low, high: the range of the data in its own units. Float data may have tails beyond it.
        num_classes: 0 if and only if y is None.

    Raises:
        ValueError: a field does not fit the others.
    """

    name: str
    x: np.ndarray
    y: np.ndarray | None
    low: float
    high: float
    num_classes: int = 0

    def __post_init__(self) -> None:
        if self.x.ndim < 2 or not (self.x.dtype == np.uint8 or self.x.dtype.kind == "f"):
            raise ValueError(
                f"{self.name}: x must be [N, *event] of uint8 or float, "
                f"got {self.x.dtype} of shape {self.x.shape}"
            )
        if not self.low < self.high:
            raise ValueError(f"{self.name}: low must be below high, got {self.low} and {self.high}")
        if (self.y is None) != (self.num_classes == 0):
            raise ValueError(
                f"{self.name}: num_classes must be 0 if and only if there are no labels"
            )
        if self.y is not None and self.y.shape != self.x.shape[:1]:
            raise ValueError(
                f"{self.name}: y must have one label for each of the {len(self.x)} events, "
                f"got shape {self.y.shape}"
            )

    def __len__(self) -> int:
        return len(self.x)
