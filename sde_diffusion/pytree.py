"""Frozen dataclasses as pytrees."""

import dataclasses
from collections.abc import Hashable
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def pytree(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass and a pytree whose leaves are its fields.

    A field with `metadata={"static": True}` belongs to the structure instead.

    This does not use jax.tree_util.register_dataclass. In jaxlib 0.10.2 the structures of any two
    classes that it registered compare equal if they have the same number of fields, though their
    hashes differ. When a few bits of the hashes agree, in about one process of 60, the cache of
    `jit` mistakes one class for the other and runs VP's program on a SubVP.
    """
    # dataclasses.dataclass returns the class itself; the fields of its bases come first.
    made = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(made)  # type: ignore[arg-type]
    static = tuple(f.name for f in fields if f.metadata.get("static"))
    leaves = tuple(f.name for f in fields if not f.metadata.get("static"))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in leaves)

    def flatten(value: T) -> tuple[tuple[Any, ...], Hashable]:
        structure = tuple(getattr(value, name) for name in static)
        return tuple(getattr(value, name) for name in leaves), structure

    def flatten_with_keys(value: T) -> tuple[tuple[tuple[Any, Any], ...], Hashable]:
        children, structure = flatten(value)
        return tuple(zip(keys, children, strict=True)), structure

    def unflatten(structure: Any, children: Any) -> T:
        given = zip((*leaves, *static), (*children, *structure), strict=True)
        return made(**dict(given))

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made
