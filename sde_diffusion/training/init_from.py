"""A run that starts from stored parameters, whole or in part, in place of random ones."""

import fnmatch
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import selection
from sde_diffusion.training import parameters
from sde_diffusion.training.state import TrainState

Shapes = Mapping[str, tuple[int, ...]]


class Stored(NamedTuple):
    """Parameters that lie somewhere, by names such as "down_0/conv/kernel".

    name: where they lie, for messages.
    shapes: the shape of each.
    read: takes {name: abstract array with its sharding} to {name: array}, reading no others.
    """

    name: str
    shapes: Shapes
    read: Callable[[Mapping[str, jax.ShapeDtypeStruct]], dict[str, jax.Array]]


class Plan(NamedTuple):
    """Names of parameters: those to take, those to leave where they lie, and those of the network
    that keep their random values, because nothing of their name is stored (`missing`) or because
    they are not wanted (`unwanted`)."""

    take: tuple[str, ...]
    left: tuple[str, ...]
    missing: tuple[str, ...]
    unwanted: tuple[str, ...]


def plan(stored: Stored, params: Any, names: str = "*") -> Plan:
    """Which of the stored parameters a network starts from.

    Args:
        stored: where the parameters lie.
        params: the network's parameters, or their shapes.
        names: patterns such as "down_*,!down_0/*": those of the network's parameters that match
            one, and none that begins with "!", are wanted.

    Raises:
        ValueError: a pattern matches none, a stored parameter has another shape than the network's
            of the same name, or there is nothing to take.
    """
    shapes = {name: leaf.shape for name, leaf in named(params).items()}
    wanted = _matching(names, shapes)
    take = [name for name in wanted if name in stored.shapes]
    for name in take:
        if stored.shapes[name] != shapes[name]:
            raise ValueError(
                f"{stored.name}: {name} has the shape {stored.shapes[name]}, and in this network "
                f'{shapes[name]}; leave it out with a pattern such as "*,!{name}"'
            )
    if not take:
        raise ValueError(
            f"{stored.name} has no parameter of the names wanted ({_few(wanted)}), only "
            f"{_few(list(stored.shapes))}"
        )
    return Plan(
        tuple(take),
        tuple(name for name in stored.shapes if name not in take),
        tuple(name for name in wanted if name not in stored.shapes),
        tuple(name for name in shapes if name not in wanted),
    )


def start(state: TrainState, stored: Stored, take: tuple[str, ...]) -> TrainState:
    """The state of step 0 with the named parameters as they are stored, its averages equal to them.

    What is read goes straight to the devices and in the dtype of the state's own arrays.
    """
    at_home = named(state.params)
    abstract = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for name, leaf in at_home.items()
        if name in take
    }
    found = at_home | stored.read(abstract)
    params = jax.tree.unflatten(jax.tree.structure(state.params), [found[k] for k in at_home])
    # Copies, since the training step donates every buffer of the state, each of them once.
    ema = tuple(jax.tree.map(jnp.copy, params) for _ in state.ema)
    return state._replace(params=params, ema=ema)


def named(params: Any) -> dict[str, Any]:
    """{"down_0/conv/kernel": leaf, ...} of a tree, in the order of its leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


def in_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> Stored:
    """Parameters in arrays on the host; "a.b.c" is taken for "a/b/c"."""
    arrays = {key.replace(".", "/"): array for key, array in arrays.items()}

    def place(array: np.ndarray, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            return np.asarray(array[index], leaf.dtype)

        return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)

    def read(abstract: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        return {key: place(arrays[key], leaf) for key, leaf in abstract.items()}

    return Stored(name, {key: array.shape for key, array in arrays.items()}, read)


def in_run(
    workdir: str | os.PathLike[str], *, ema: int | None = 0, step: parameters.Step = None
) -> Stored:
    """Parameters of a checkpoint, or an average of them; see `restore_params` for the arguments.

    Raises what `restore_params` raises, and ValueError for parameters that are not nested dicts.
    """
    saved = parameters.find(workdir, ema=ema, step=step)
    kinds = {_keys(path.removeprefix(saved.at)): kind for path, kind in saved.kinds.items()}
    dtypes = {"/".join(keys): kind.partition("[")[0] for keys, kind in kinds.items()}

    def read(abstract: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        nested: dict[str, Any] = {}
        for keys in kinds:
            if (name := "/".join(keys)) in abstract:
                folder = nested
                for key in keys[:-1]:
                    folder = folder.setdefault(key, {})
                # In the dtype in which it was saved, which its checksum is of.
                folder[keys[-1]] = abstract[name].update(dtype=dtypes[name])
        arrays = named(parameters.read_saved(saved, nested))
        return {name: array.astype(abstract[name].dtype) for name, array in arrays.items()}

    shapes = {"/".join(keys): _shape(kind) for keys, kind in kinds.items()}
    return Stored(f"{workdir} at step {saved.where.name}", shapes, read)


def _keys(path: str) -> tuple[str, ...]:
    """("a", "b") of "['a']['b']"."""
    keys = re.findall(r"\['(.*?)'\]", path)
    if "".join(f"['{key}']" for key in keys) != path:
        raise ValueError(f"init_from takes parameters in nested dicts, not {path}")
    return tuple(keys)


def _shape(kind: str) -> tuple[int, ...]:
    """(64, 3) of "float32[64, 3]"."""
    return tuple(json.loads(kind[kind.index("[") :]))


def _matching(patterns: str, names: Collection[str]) -> list[str]:
    """The names that match a pattern, and none that begins with "!"."""
    split = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in split:
        if not fnmatch.filter(names, pattern.removeprefix("!")):
            raise ValueError(
                selection.unknown("pattern of parameters", pattern.removeprefix("!"), [*names][:20])
            )
    yes = [pattern for pattern in split if not pattern.startswith("!")]
    no = [pattern.removeprefix("!") for pattern in split if pattern.startswith("!")]

    def match(name: str, among: list[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in among)

    return [name for name in names if match(name, yes or ["*"]) and not match(name, no)]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
