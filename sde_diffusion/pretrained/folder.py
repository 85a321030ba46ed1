"""A part of a pretrained folder as diffusers and transformers write it: config.json and weights.

Nothing is unpickled: weights are read from safetensors only.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from sde_diffusion.pretrained import safetensors

STEMS = ("diffusion_pytorch_model", "model")
PICKLED = (".bin", ".ckpt", ".pt", ".pth")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object of a JSON file; FileNotFoundError or ValueError, which name it, otherwise."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent}: there is no {path.name}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not hold an object")
    return value


def read_weights(
    folder: str | os.PathLike[str], variant: str | None = None
) -> dict[str, np.ndarray]:
    """The tensors of a folder by name, mapped: of one file, or of the shards that an index names.

    variant: such as "fp16", for files called model.fp16.safetensors. With None the files without a
        variant are read, and where there are none, those of the only variant.

    Raises:
        FileNotFoundError: there are no weights, or not those of the variant.
        ValueError: the weights are pickled, or a file is not whole.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    found = _variants(folder)
    chosen = found.get(variant)
    if chosen is None and variant is None and len(found) == 1:
        (chosen,) = found.values()
    if chosen is None:
        raise _not_found(folder, variant, found)
    if chosen.suffix != ".json":
        return safetensors.read(chosen)
    shards: dict[str, str] = read_json(chosen).get("weight_map", {})
    files = {name: safetensors.read(folder / name) for name in sorted(set(shards.values()))}
    absent = [name for name, file in shards.items() if name not in files[file]]
    if absent:
        raise ValueError(f"{folder / shards[absent[0]]} has no {absent[0]}, which {chosen} names")
    return {name: files[file][name] for name, file in shards.items()}


def _variants(folder: Path) -> dict[str | None, Path]:
    """The file, or the index of shards, of each variant; None is the key of what has no variant."""
    found: dict[str | None, Path] = {}
    for stem in STEMS:
        # The index comes last, as it counts where both are there.
        for end in (".safetensors", ".safetensors.index.json"):
            for path in sorted(folder.glob(f"{stem}*{end}")):
                between = path.name.removeprefix(stem).removesuffix(end)
                if "-of-" not in between and (between == "" or between.startswith(".")):
                    found[between[1:] or None] = path
            # Older names put the variant after "index": model.safetensors.index.fp16.json.
        for path in sorted(folder.glob(f"{stem}.safetensors.index.*.json")):
            found[path.name.split(".")[-2]] = path
    return found


def _not_found(
    folder: Path, variant: str | None, found: dict[str | None, Path]
) -> ValueError | FileNotFoundError:
    if found:
        known = ", ".join("none" if name is None else name for name in found)
        return FileNotFoundError(f"{folder}: no weights of variant {variant} (there are: {known})")
    pickled = [path for path in sorted(folder.iterdir()) if path.suffix in PICKLED]
    if pickled:
        return ValueError(refusal(pickled[0]))
    return FileNotFoundError(f"{folder}: there is no file *.safetensors")


def refusal(path: str | os.PathLike[str]) -> str:
    """Why a pickled file is not read, and what to do."""
    return (
        f"{path} is a pickle, which can run any code when it is read, so it is not: convert it to "
        "safetensors where you trust it, with torch.load(file, weights_only=True) and "
        "safetensors.torch.save_file"
    )
