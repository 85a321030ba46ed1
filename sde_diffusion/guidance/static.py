"""A setting that belongs to a guided model's structure rather than to its leaves."""

import dataclasses
from typing import Any

from jax.tree_util import register_static


@register_static
@dataclasses.dataclass(frozen=True)
class Static:
    """A hashable value that is no leaf: another one is another program."""

    value: Any
