"""Selection by name: the only way in which a string becomes a value, with errors that help."""

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def unknown(what: str, given: str, known: Collection[str]) -> str:
    """One line: what was given, the nearest known name, and all of them."""
    near = difflib.get_close_matches(str(given), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {given!r}{hint} (choices: {', '.join(known) or 'none'})"


def require_known(what: str, given: str, known: Collection[str]) -> None:
    """Raise ValueError, listing the choices and the nearest one, unless `given` is among them."""
    if given not in known:
        raise ValueError(unknown(what, given, known))


def choose(what: str, given: str, known: Mapping[str, T]) -> T:
    """known[given]; ValueError that lists the choices and the nearest otherwise."""
    require_known(what, given, known)
    return known[given]


def build(
    what: str, given: str, known: Mapping[str, Callable[..., T]], fields: Mapping[str, Any]
) -> T:
    """known[given](**fields); ValueError names a field that does not fit."""
    make = choose(what, given, known)
    names = list(inspect.signature(make).parameters)
    for field in fields:
        require_known(f"field of {what} {given!r}", field, names)
    try:
        return make(**fields)
    except TypeError as error:  # a text for a number, for example
        told = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        raise ValueError(f"{what} {given!r} does not take {told}: {error}") from error
