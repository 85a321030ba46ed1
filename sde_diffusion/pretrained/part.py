"""Parts of a pretrained folder: a module with its parameters, made of config.json and weights.

What a class of diffusers or transformers is here is said by a `Kind`, a few tables. `kinds.KINDS`
has all of them.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sde_diffusion.pretrained.folder import read_json, read_weights
from sde_diffusion.pretrained.tensors import Renames, Tensors, to_params
from sde_diffusion.selection import unknown


@dataclasses.dataclass(frozen=True)
class Kind:
    """A class of another library as a module of ours.

    module: the class of the module. Its fields are those of the config that have the same name, and
        its defaults are the library's, as a config may leave them out.
    example: module -> arguments that it can be called with, as shapes.
    fixed: fields of the config with one value each that is supported.
    ignored: fields that change nothing about the module.
    renames: the table for `tensors.renamed`.
    given: fields of the module that the class says, and no config.
    """

    module: Callable[..., nn.Module]
    example: Callable[[Any], tuple[Any, ...]]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    renames: Renames = dataclasses.field(default_factory=dict)
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Part(NamedTuple):
    """A module, its parameters, as module.apply({"params": params}, ...) takes them, its config."""

    module: Any
    params: Any
    config: dict[str, Any]


def read_part(
    folder: str | os.PathLike[str],
    kind: Kind,
    *,
    variant: str | None = None,
    dtype: Any = jnp.float32,
    put: Callable[[tuple[str, ...], np.ndarray], jax.Array | np.ndarray] | None = None,
    weights: Mapping[str, Tensors] | None = None,
    shapes_only: bool = False,
    **fields: Any,
) -> Part:
    """The part in a folder with config.json and weights.

    Args:
        variant: see `folder.read_weights`.
        dtype: of the parameters and of the computation.
        put: see `tensors.to_params`.
        weights: tensors by the name of their part's folder, in place of the folder's files.
        fields: of the module that no config has, such as `attention`.

    Raises ValueError or FileNotFoundError for a folder that is not whole, a config that is not
    supported, and tensors that do not fit.
    """
    config = read_json(Path(folder) / "config.json")
    module = build(kind, config, source=str(folder), dtype=str(jnp.dtype(dtype)), **fields)
    if shapes_only:
        return Part(module, shapes(kind, module), config)
    params = to_params(
        shapes(kind, module),
        read_weights(folder, variant) if weights is None else weights[Path(folder).name],
        renames=kind.renames,
        dtype=dtype,
        source=str(folder),
        put=put,
    )
    return Part(module, params, config)


def build(kind: Kind, config: Mapping[str, Any], *, source: str, **fields: Any) -> Any:
    """The module of a config; ValueError, which begins with `source`, for one not supported."""
    known = [f.name for f in dataclasses.fields(kind.module) if f.name not in ("parent", "name")]  # type: ignore[arg-type]
    # "dtype" of a config is that of its files.
    read = [name for name in known if name not in (*fields, *kind.given, "dtype")]
    for name, value in config.items():
        plain = tuple(value) if isinstance(value, list) else value
        if name in kind.fixed:
            if plain != kind.fixed[name]:
                raise ValueError(
                    f"{source}: {name} = {value!r} is not supported (only {kind.fixed[name]!r})"
                )
        elif not (name in read or name in kind.ignored or name.startswith("_") or not value):
            choices = sorted({*read, *kind.fixed, *kind.ignored})
            raise ValueError(f"{source}: {unknown('field of config.json', name, choices)}")
    taken = {name: _plain(config[name]) for name in read if name in config}
    return kind.module(**taken, **kind.given, **fields)


def shapes(kind: Kind, module: Any) -> Any:
    """The shapes of the parameters of a module of this kind."""
    return _shapes(kind.example, module)


@functools.lru_cache(maxsize=16)  # a module is traced for seconds, and equal ones have equal shapes
def _shapes(example: Callable[[Any], tuple[Any, ...]], module: Any) -> Any:
    def init(*arguments: Any) -> Any:
        with nn.intercept_methods(_equal_modules_once()):
            return module.init(jax.random.key(0), *arguments)["params"]

    return jax.eval_shape(init, *example(module))


def _equal_modules_once() -> Callable[..., Any]:
    """An interceptor, for shapes alone, that runs one of the submodules that are equal.

    Submodules with equal fields whose arguments have equal shapes have parameters and results of
    equal shapes. All but the first are given zeros, which takes a third of the time of a U-Net.
    """
    made: dict[Any, Any] = {}

    def intercept(run: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        key = _call(module, args, kwargs) if context.method_name == "__call__" else None
        if key is None:
            return run(*args, **kwargs)
        if key not in made:
            result = run(*args, **kwargs)
            params = module.variables.get("params", {})
            made[key] = jax.eval_shape(lambda: (params, result))
            return result
        params, result = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), made[key])
        for name, value in params.items():
            module.scope.put_variable("params", name, value)
        return result

    return intercept


def _call(module: Any, args: Any, kwargs: Any) -> Any:
    """What decides the shapes of a call's parameters and results, or None where it is not known."""
    fields = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    values = tuple(getattr(module, name) for name in fields)
    leaves, structure = jax.tree.flatten((args, kwargs))
    told = tuple((x.shape, x.dtype) if isinstance(x, jax.Array) else x for x in leaves)
    key = (type(module), values, structure, told)
    try:
        hash(key)
    except TypeError:
        return None
    # A module among the fields has its parameters elsewhere.
    return None if any(isinstance(value, nn.Module) for value in values) else key


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list) else value
