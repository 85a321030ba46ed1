"""Starting a run from stored parameters, all or some of them, instead of random ones."""

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.training import parameters
from sde_diffusion.training.state import TrainState
from sde_diffusion.tree_names import few, matching, named

Shapes = Mapping[str, tuple[int, ...]]


class Stored(NamedTuple):
    """Stored parameters, by names such as "down_0/conv/kernel".

    name: where they are stored, for messages.
    shapes: the shape of each.
    read: maps {name: abstract array with its sharding} to {name: array}; reads no others.
    """

    name: str
    shapes: Shapes
    read: Callable[[Mapping[str, jax.ShapeDtypeStruct]], dict[str, jax.Array]]


class Plan(NamedTuple):
    """Names of parameters.

    take: stored parameters that the network starts from.
    left: stored parameters that are not used.
    missing: the network's parameters that stay random because none of that name is stored.
    unwanted: the network's parameters that stay random because no pattern selects them.
    """

    take: tuple[str, ...]
    left: tuple[str, ...]
    missing: tuple[str, ...]
    unwanted: tuple[str, ...]


def plan(stored: Stored, params: Any, names: str = "*") -> Plan:
    """Which of the stored parameters a network starts from.

    Args:
        stored: the stored parameters.
        params: the network's parameters, or their shapes.
        names: patterns such as "down_*,!down_0/*", which select the network's parameters that
            match a pattern without "!" and no pattern with "!".

    Raises:
        ValueError: a pattern matches no parameter, a stored parameter and the network's parameter
            of the same name have different shapes, or no parameter can be taken.
    """
    shapes = {name: leaf.shape for name, leaf in named(params).items()}
    wanted = matching(names, shapes)
    take = [name for name in wanted if name in stored.shapes]
    for name in take:
        if stored.shapes[name] != shapes[name]:
            raise ValueError(
                f"{stored.name}: {name} has the shape {stored.shapes[name]}, and in this network "
                f'{shapes[name]}; leave it out with a pattern such as "*,!{name}"'
            )
    if not take:
        raise ValueError(
            f"{stored.name} has no parameter of the names wanted ({few(wanted)}), only "
            f"{few(list(stored.shapes))}"
        )
    return Plan(
        tuple(take),
        tuple(name for name in stored.shapes if name not in take),
        tuple(name for name in wanted if name not in stored.shapes),
        tuple(name for name in shapes if name not in wanted),
    )


def start(state: TrainState, stored: Stored, take: tuple[str, ...]) -> TrainState:
    """The state of step 0 with the named parameters replaced by the stored ones.

    The averages are set to the same values. Parameters are read directly onto the devices, in the
    dtypes of the state.
    """
    at_home = named(state.params)
    abstract = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for name, leaf in at_home.items()
        if name in take
    }
    found = at_home | stored.read(abstract)
    params = jax.tree.unflatten(jax.tree.structure(state.params), [found[k] for k in at_home])
    # Copies, because the training step donates every buffer of the state, and only once each.
    ema = tuple(jax.tree.map(jnp.copy, params) for _ in state.ema)
    return state._replace(params=params, ema=ema)


def in_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> Stored:
    """Parameters in arrays on the host; the name "a.b.c" means "a/b/c"."""
    return _on_host(name, {key.replace(".", "/"): array for key, array in arrays.items()})


def in_tree(name: str, params: Any) -> Stored:
    """Parameters in a tree of arrays on the host, whose names may have dots."""
    return _on_host(name, named(params))


def _on_host(name: str, arrays: Mapping[str, np.ndarray]) -> Stored:
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
    """Parameters of a checkpoint, or their average; the arguments are those of `restore_params`.

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
                # In the dtype in which it was saved, because the checksum was computed in it.
                folder[keys[-1]] = abstract[name].update(dtype=dtypes[name])
        arrays = named(parameters.read_saved(saved, nested))
        return {name: array.astype(abstract[name].dtype) for name, array in arrays.items()}

    shapes = {"/".join(keys): _shape(kind) for keys, kind in kinds.items()}
    return Stored(f"{workdir} at step {saved.where.name}", shapes, read)


def _keys(path: str) -> tuple[str, ...]:
    """("a", "b") of "['a']['b']"."""
    keys = re.findall(r"\['(.*?)'\]", path)
    if "".join(f"['{key}']" for key in keys) != path:
        raise ValueError(f"init_from needs parameters in nested dicts, got {path}")
    return tuple(keys)


def _shape(kind: str) -> tuple[int, ...]:
    """(64, 3) of "float32[64, 3]"."""
    return tuple(json.loads(kind[kind.index("[") :]))
