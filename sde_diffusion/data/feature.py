"""What the arrays of a record are: shapes, types, ranges and class names, also as JSON.

A run's folder stores this description, so that sampling needs no data set.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# The feature that a diffusion model generates is the first of these that a record has. `image` is
# [H, W, C]; `x` is an event of any other meaning, such as a point in the plane; `mean` is that of a
# Gaussian over latents, whose standard deviation is `deviation`.
EVENTS = ("image", "audio", "x", "mean")


def event_name(names: Iterable[str]) -> str:
    """The name of the array that a model generates: the first of EVENTS among the names.

    Raises:
        ValueError: none of EVENTS is there.
    """
    there = list(names)
    for name in EVENTS:
        if name in there:
            return name
    raise ValueError(f"a record needs one of {', '.join(EVENTS)}, got {', '.join(there)}")


@dataclass(frozen=True)
class Feature:
    """One named array of a record.

    Args:
        shape: of one record's array; () for a number or a text.
        dtype: a NumPy type by name, such as "uint8" or "float32", or "str" for a text.
        low, high: the range of the values in the data's own units. Float data may have tails
            beyond it. None where the values have no range, as labels and texts.
        classes: the name of each class, for a label in [0, len(classes)); else None.
        counts: how many records each class has, where that is known.
        words: what the tokens 2, 3, ... of a text stand for; see `data.vocabulary`.

    Raises:
        ValueError: a field does not fit the others.
    """

    shape: tuple[int, ...]
    dtype: str
    low: float | None = None
    high: float | None = None
    classes: tuple[str, ...] | None = None
    counts: tuple[int, ...] | None = None
    words: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.dtype == "str":
            if self.shape or self.low is not None or self.high is not None:
                raise ValueError(f"a text has shape () and no range, got {self}")
        elif np.dtype(self.dtype).kind not in "biuf":
            raise ValueError(f"dtype must be numeric or 'str', got {self.dtype!r}")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"low and high go together, got {self.low} and {self.high}")
        ends = () if self.low is None or self.high is None else (self.low, self.high)
        if ends and not -math.inf < ends[0] < ends[1] < math.inf:
            raise ValueError(f"low must be below high and both finite, got {ends[0]} and {ends[1]}")
        if self.classes is not None and (self.shape or np.dtype(self.dtype).kind not in "iu"):
            raise ValueError(f"only a whole number has classes, got {self.dtype} {self.shape}")
        if self.counts is not None and len(self.counts) != self.num_classes:
            raise ValueError(f"{len(self.counts)} counts for {self.num_classes} classes")

    @property
    def num_classes(self) -> int:
        return 0 if self.classes is None else len(self.classes)

    @property
    def range(self) -> tuple[float, float]:
        """(low, high); ValueError where the values have no range."""
        if self.low is None or self.high is None:
            raise ValueError(f"the range of this feature is not known: {self}")
        return self.low, self.high


class Features(Mapping[str, Feature]):
    """The features of a source by name, in a fixed order.

    Raises:
        ValueError: there is no event, or it is not uint8 or float of a known range.
    """

    def __init__(self, features: Mapping[str, Feature]) -> None:
        self._features = dict(features)
        event = self.event
        if not event.shape or not (event.dtype == "uint8" or np.dtype(event.dtype).kind == "f"):
            raise ValueError(
                f"{self.event_name} must be [N, *event] of uint8 or float, "
                f"got {event.dtype} of shape {('N', *event.shape)}"
            )
        if event.low is None:
            raise ValueError(f"{self.event_name} of {event.dtype} needs its range, low and high")

    def __getitem__(self, name: str) -> Feature:
        return self._features[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)

    def __repr__(self) -> str:
        return f"Features({self._features})"

    @property
    def event_name(self) -> str:
        """The name of the array that a model generates."""
        return event_name(self._features)

    @property
    def event(self) -> Feature:
        """The feature that a model generates."""
        return self._features[self.event_name]

    @property
    def num_classes(self) -> int:
        """How many classes `label` has; 0 where there is no label."""
        return self._features["label"].num_classes if "label" in self._features else 0

    def to_json(self) -> str:
        """A JSON object with an entry for each feature; `from_json` reads it back."""
        fields = {name: dataclasses.asdict(feature) for name, feature in self.items()}
        return json.dumps(fields, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Features":
        """Raises ValueError where the text is not what `to_json` writes."""
        try:
            features = {name: _feature(fields) for name, fields in json.loads(text).items()}
        except (AttributeError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a description of features ({error})") from error
        return cls(features)


def _feature(fields: dict[str, Any]) -> Feature:
    lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return Feature(**(fields | lists))
