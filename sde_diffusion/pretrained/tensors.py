"""Tensors of PyTorch libraries as the parameters of our modules, and back.

This is the one place that says how names correspond. The modules of `networks` that other people's
weights fit into carry the names of those libraries: a submodule is called "down_blocks.0" or
"to_out.0", with the dot. So the name of a parameter is its path joined by dots, whose last part is

    kernel, scale, embedding -> weight          any other name stays, such as bias

A layer that is scanned (`networks.scan`) is called "scanned_NAME", its arrays are [L, ...], and
array i is the tensor NAME.i; called "scanned_NAME@n", it is the tensor NAME.(n + i):

    {"down_blocks.0": {"resnets.1": {"conv1": {"bias": ...}}}}   down_blocks.0.resnets.1.conv1.bias
    {"encoder": {"scanned_layers": {"fc1": {"kernel": ...}}}}    encoder.layers.{i}.fc1.weight

The arrays of a kernel are transposed:

    dense         [out, in]               -> [in, out]
    convolution   [out, in, h, w]         -> [h, w, in, out]

Where a family calls a tensor by another name, a table says so, see `renamed`.
"""

import math
import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from sde_diffusion.layerwise import SCANNED
from sde_diffusion.pretrained.copying import copy, copy_kernel, empty

Tensors = Mapping[str, np.ndarray]
Renames = Mapping[str, str | None]

WEIGHTS = ("kernel", "scale", "embedding")
TO_OURS = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}
TO_THEIRS = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}
NAMED = 5  # the most tensors that an error names


class Place(NamedTuple):
    """Where a parameter stands: the names of its tensors, one for each scanned layer, and its leaf.

    `stacked` says whether the tensors are layers of one array.
    """

    names: tuple[str, ...]
    leaf: str
    stacked: bool


def to_params(
    shapes: Any,
    tensors: Tensors,
    *,
    renames: Renames | None = None,
    dtype: Any = np.float32,
    source: str = "the weights",
    put: Callable[[tuple[str, ...], np.ndarray], jax.Array | np.ndarray] | None = None,
) -> Any:
    """The parameters of a module, from tensors by name.

    One parameter at a time is read, transposed, cast and put on its device, so that the host holds
    no second copy of the model.

    Args:
        shapes: the tree of parameters as `jax.eval_shape(module.init, ...)["params"]` gives it.
        tensors: arrays by name, which may be mapped files.
        renames: the table for `renamed`.
        dtype: of the parameters.
        source: what the errors call the tensors, such as the path of a folder.
        put: (path, array) -> the array on its devices; by default on JAX's default device. On a CPU
            that is the host's array itself, so nothing may change it.

    Raises ValueError, which names tensors with their shapes, where one is missing, left over, or of
    another shape.
    """
    given = renamed(tensors, renames or {})
    flat = flatten_dict(shapes)
    places = {path: place(path, leaf.shape) for path, leaf in flat.items()}
    _require_same_names(shapes, given, source)
    put = put or (lambda _, array: jax.device_put(array))

    def parameter(path: tuple[str, ...]) -> jax.Array | np.ndarray:
        leaf, where = flat[path], places[path]
        array = empty(leaf.shape, dtype)
        for target, name in zip(array if where.stacked else [array], where.names, strict=True):
            tensor = _fitting(given[name], where.leaf, target.shape, f"{source}: {name}")
            if where.leaf == "kernel" and tensor.ndim in TO_OURS:
                copy_kernel(tensor, target)
            else:
                copy(tensor, target)
            _forget(given[name])
        return put(path, array)

    return unflatten_dict({path: parameter(path) for path in flat})


def fitting(
    shapes: Any, tensors: Tensors, renames: Renames, source: str = "the weights"
) -> dict[str, np.ndarray]:
    """The tensors that `to_params` would read, under our names and with our shapes, not copied.

    Raises what `to_params` does.
    """
    given = renamed(tensors, renames)
    _require_same_names(shapes, given, source)
    made = {}
    for path, leaf in flatten_dict(shapes).items():
        where = place(path, leaf.shape)
        shape = leaf.shape[1:] if where.stacked else leaf.shape
        for name in where.names:
            made[name] = _fitting(given[name], where.leaf, shape, f"{source}: {name}")
    return made


def to_tensors(params: Any) -> dict[str, np.ndarray]:
    """The tensors of a tree of parameters by name, as `to_params` reads them: its inverse."""
    made = {}
    for path, array in flatten_dict(params).items():
        where, array = place(path, array.shape), np.asarray(array)
        for name, layer in zip(where.names, array if where.stacked else [array], strict=True):
            transposed = where.leaf == "kernel" and layer.ndim in TO_THEIRS
            made[name] = layer.transpose(TO_THEIRS[layer.ndim]) if transposed else layer
    return made


def names_and_shapes(shapes: Any) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor that `to_params` takes for this tree of shapes."""
    made = {}
    for path, leaf in flatten_dict(shapes).items():
        where = place(path, leaf.shape)
        shape = _their_shape(where.leaf, leaf.shape[1:] if where.stacked else leaf.shape)
        made.update(dict.fromkeys(where.names, shape))
    return made


def place(path: tuple[str, ...], shape: tuple[int, ...]) -> Place:
    """The place of the parameter at this path of a tree, with its shape."""
    *modules, leaf = path
    last = "weight" if leaf in WEIGHTS else leaf
    scanned = [name.startswith(SCANNED) for name in modules]
    if not any(scanned):
        return Place((".".join((*modules, last)),), leaf, False)
    at = scanned.index(True)
    before, after = modules[:at], modules[at + 1 :]
    name, _, start = modules[at].removeprefix(f"{SCANNED}_").partition("@")
    numbers = range(int(start or 0), int(start or 0) + shape[0])
    layers = (".".join((*before, name, str(i), *after, last)) for i in numbers)
    return Place(tuple(layers), leaf, True)


def renamed(tensors: Tensors, renames: Renames) -> dict[str, np.ndarray]:
    """The tensors under our names, by a table {their pattern: our pattern}.

    In a pattern {i}, {j}, {k}, {l} stand for a whole number, and any other {word} for any part of a
    name. The first pattern that fits decides; a name that none fits stays. None in place of our
    pattern means that the tensor is not used.

        {"{block}.attentions.{i}.query.{leaf}": "{block}.attentions.{i}.to_q.{leaf}"}
    """
    table = [(re.compile(_expression(theirs)), ours) for theirs, ours in renames.items()]
    made = {}
    for name, tensor in tensors.items():
        fits = ((pattern.fullmatch(name), ours) for pattern, ours in table)
        match, ours = next(((m, ours) for m, ours in fits if m), (None, name))
        if ours is not None:
            made[ours.format(**match.groupdict()) if match else ours] = tensor
    return made


def originals(name: str, renames: Renames) -> list[str]:
    """The names that `renamed` gives this one by that table, each pattern alone."""
    fits = (
        (theirs, re.fullmatch(_expression(ours), name))
        for theirs, ours in renames.items()
        if ours is not None
    )
    return [theirs.format(**match.groupdict()) for theirs, match in fits if match]


def _expression(pattern: str) -> str:
    def parts() -> Iterator[str]:
        for i, part in enumerate(re.split(r"\{(\w+)\}", pattern)):
            if i % 2 == 0:
                yield re.escape(part)
            else:
                yield f"(?P<{part}>{r'[0-9]+' if part in 'ijkl' else '.+'})"

    return "".join(parts())


def _their_shape(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if leaf != "kernel" or len(shape) not in TO_THEIRS:
        return shape
    return tuple(shape[axis] for axis in TO_THEIRS[len(shape)])


def _fitting(tensor: np.ndarray, leaf: str, shape: tuple[int, ...], name: str) -> np.ndarray:
    """The tensor of a leaf of ours of this shape; a 1x1 convolution may stand for a dense layer.

    Raises ValueError, which begins with `name`, for a tensor of another shape.
    """
    wanted = _their_shape(leaf, shape)
    dense = leaf == "kernel" and len(wanted) == 2 and math.prod(tensor.shape[2:]) == 1
    array = tensor.reshape(tensor.shape[:2]) if dense else tensor
    if array.shape != wanted:
        raise ValueError(f"{name} has the shape {tensor.shape}, but the config needs {wanted}")
    return array


def _require_same_names(shapes: Any, given: Tensors, source: str) -> None:
    wanted = names_and_shapes(shapes)
    missing = {name: shape for name, shape in wanted.items() if name not in given}
    unexpected = {name: tensor.shape for name, tensor in given.items() if name not in wanted}
    found = [
        f"{len(which)} {'tensor is' if len(which) == 1 else 'tensors are'} {what}: {_list(which)}"
        for what, which in (("missing", missing), ("not used", unexpected))
        if which
    ]
    if found:
        raise ValueError(f"{source}: {'; '.join(found)}")


def _list(shapes: Mapping[str, tuple[int, ...]]) -> str:
    named = [f"{name} {shape}" for name, shape in list(shapes.items())[:NAMED]]
    return ", ".join(named) + (", ..." if len(shapes) > NAMED else "")


def _forget(array: Any) -> None:
    """Tell the system that the pages of a mapped file, which were read, are not needed again."""
    while array is not None:
        mapped = getattr(array, "_mmap", None)
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
            return
        array = getattr(array, "base", None)
