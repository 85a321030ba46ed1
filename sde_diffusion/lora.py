"""Low-rank adapters (LoRA): small changes of a network's matrices, as functions on parameter trees.

An adapter of a matrix W [in, out] is a pair of matrices, `down` A [in, r] and `up` B [r, out], and
the adapted network computes with

    W + A B                                                                (1)

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1, whose W, A and B
are the transposes. A begins random and B at zero, so that an adapted network begins as the one it
adapts; only A and B are trained. The paper's factor alpha / r, or any other weight, is applied with
`scale`.

A tree of adapters is nested dicts in the form of the parameters, with {"down": A, "up": B} in place
of each adapted array. The network itself does not change, so that any module is adapted, in any
library:

    convolution    W [h, w, in, out]    A [h, w, in, r]    B [1, 1, r, out]
    L layers that are scanned (a name that begins with "scanned") have an axis L before these

`A @ B` is the change in each case.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sde_diffusion.layerwise import SCANNED
from sde_diffusion.tree_names import few, matching, named

Array = jax.Array
Adapters = Mapping[str, Any]

DOWN, UP = "down", "up"


def init(key: Array, params: Any, rank: int, names: str = "*") -> dict[str, Any]:
    """Adapters of the matrices and convolutions whose names match, in float32.

    `down` is normal with variance 1 / (number of inputs), `up` is zero.

    Args:
        key: of the random numbers.
        params: the network's parameters, or their shapes.
        rank: r, at least 1.
        names: patterns of names such as "*attention*,!*/embedding" (see `tree_names.matching`).
            Vectors that match, such as biases, get no adapter.

    Raises ValueError for a rank below 1, a pattern that matches no parameter, and where no matrix
    matches.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"the rank of an adapter must be a whole number from 1, got {rank!r}")
    leaves = named(params)
    wanted = matching(names, leaves)
    matrices = [name for name in wanted if _axes(name, leaves[name].shape) >= 2]
    if not matrices:
        raise ValueError(f"no matrix has a name that matches {names!r}, only {few(wanted)}")
    made = {}
    for i, name in enumerate(matrices):
        down, up = shapes(name, leaves[name].shape, rank)
        lead = len(down) - _axes(name, leaves[name].shape)
        deviation = 1.0 / math.sqrt(math.prod(down[lead:-1]))
        drawn = jax.random.normal(jax.random.fold_in(key, i), down, jnp.float32)
        made[name] = {DOWN: deviation * drawn, UP: jnp.zeros(up, jnp.float32)}
    return nested(made)


def shapes(name: str, shape: tuple[int, ...], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of `down` and `up` for the parameter of this name and shape."""
    layers = shape[: len(shape) - _axes(name, shape)]
    ones = (1,) * (_axes(name, shape) - 2)
    return (*shape[:-1], rank), (*layers, *ones, rank, shape[-1])


def merge(params: Any, *adapters: Adapters) -> Any:
    """The parameters with the adapters' changes added, equation (1), for each of them.

    Products and sums are computed in float32; the result has the dtypes of the parameters. Raises
    ValueError for an adapter of a parameter that is not there, or has another shape.
    """
    return _added(params, adapters, 1.0)


def unmerge(params: Any, *adapters: Adapters) -> Any:
    """The parameters before `merge` with the same adapters, up to rounding."""
    return _added(params, adapters, -1.0)


def scale(adapters: Adapters, weight: Any) -> dict[str, Any]:
    """Adapters whose changes are `weight` times those of the given ones."""
    pairs = by_name(adapters)
    return nested({name: {DOWN: p[DOWN], UP: weight * p[UP]} for name, p in pairs.items()})


def by_name(adapters: Adapters) -> dict[str, dict[str, Any]]:
    """{"down_0/conv/kernel": {"down": A, "up": B}, ...} of a tree of adapters.

    Raises ValueError where a pair is not whole.
    """
    pairs: dict[str, dict[str, Any]] = {}
    for name, array in named(adapters).items():
        of, _, part = name.rpartition("/")
        pairs.setdefault(of, {})[part] = array
    for name, pair in pairs.items():
        if pair.keys() != {DOWN, UP}:
            raise ValueError(f"the adapter of {name!r} has {', '.join(pair)}, not {DOWN} and {UP}")
    return pairs


def nested(pairs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The tree of adapters of pairs by name: the inverse of `by_name`."""
    tree: dict[str, Any] = {}
    for name, pair in pairs.items():
        *modules, leaf = name.split("/")
        at = tree
        for module in modules:
            at = at.setdefault(module, {})
        at[leaf] = dict(pair)
    return tree


def _added(params: Any, adapters: tuple[Adapters, ...], sign: float) -> Any:
    leaves = named(params)
    changes: dict[str, list[dict[str, Any]]] = {}
    for each in adapters:
        for name, pair in by_name(each).items():
            _require_fits(name, pair, leaves)
            changes.setdefault(name, []).append(pair)
    for name, pairs in changes.items():
        total = jnp.asarray(leaves[name], jnp.float32)
        for pair in pairs:
            total = total + sign * _product(pair)
        leaves[name] = total.astype(leaves[name].dtype)
    return jax.tree.unflatten(jax.tree.structure(params), list(leaves.values()))


def _product(pair: Mapping[str, Any]) -> Array:
    down, up = (jnp.asarray(pair[part], jnp.float32) for part in (DOWN, UP))
    return jnp.matmul(down, up, precision=lax.Precision.HIGHEST)


def _require_fits(name: str, pair: Mapping[str, Any], leaves: Mapping[str, Any]) -> None:
    if name not in leaves:
        raise ValueError(f"the network has no parameter {name!r}, only {few(list(leaves))}")
    rank, shape = pair[DOWN].shape[-1], leaves[name].shape
    if (pair[DOWN].shape, pair[UP].shape) != shapes(name, shape, rank):
        raise ValueError(
            f"the adapter of {name!r} is {pair[DOWN].shape} and {pair[UP].shape}, and the network's"
            f" parameter {shape}"
        )


def _axes(name: str, shape: tuple[int, ...]) -> int:
    """The number of axes of one layer's array."""
    return len(shape) - any(module.startswith(SCANNED) for module in name.split("/"))
