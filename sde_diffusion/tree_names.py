"""Names of the leaves of a tree, such as "down_0/conv/kernel", and patterns that select some."""

import fnmatch
from collections.abc import Collection, Sequence
from typing import Any

import jax

from sde_diffusion import selection


def named(tree: Any) -> dict[str, Any]:
    """{"down_0/conv/kernel": leaf, ...} of a tree, in the order of its leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


def matching(patterns: str, names: Collection[str]) -> list[str]:
    """The names that match a pattern without "!" and no pattern with "!".

    "down_*,!down_0/*" selects what begins with "down_", except "down_0/". Where every pattern has
    a "!", the rest is selected. Raises ValueError for a pattern that matches no name.
    """
    for pattern in _split(patterns):
        if not fnmatch.filter(names, pattern.removeprefix("!")):
            raise ValueError(
                selection.unknown("pattern of parameters", pattern.removeprefix("!"), [*names][:20])
            )
    return matching_some(patterns, names)


def matching_some(patterns: str, names: Collection[str]) -> list[str]:
    """The names that `matching` selects among some of a tree's: a pattern may match none."""
    split = _split(patterns)
    yes = [pattern for pattern in split if not pattern.startswith("!")]
    no = [pattern.removeprefix("!") for pattern in split if pattern.startswith("!")]

    def match(name: str, among: list[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in among)

    return [name for name in names if match(name, yes or ["*"]) and not match(name, no)]


def _split(patterns: str) -> list[str]:
    return [pattern.strip() for pattern in patterns.split(",")]


def few(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
