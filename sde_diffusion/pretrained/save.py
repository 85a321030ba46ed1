"""save(folder, like, parts): a folder that diffusers loads, with other weights in some parts."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from sde_diffusion.pretrained import safetensors
from sde_diffusion.pretrained.folder import read_json
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import build, shapes
from sde_diffusion.pretrained.tensors import to_tensors
from sde_diffusion.selection import require_known

STEM = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
WEIGHTS = ("*.safetensors", "*.safetensors.index*.json", "*.bin", "*.bin.index*.json", "*.msgpack")


def save(
    folder: str | os.PathLike[str],
    like: str | os.PathLike[str],
    parts: Mapping[str, Any],
    *,
    dtype: Any = None,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a pipeline's folder, for diffusers and for `load`, after one that is there.

    Configs, tokenizers and the parts that are not given are copied from `like`.

    Args:
        folder: where to; it must not be there.
        like: the folder of the pipeline that the parts belong to.
        parts: parameters by the name of their folder, such as
            {"unet": pipe.model.params["params"]}.
        dtype: of the weights of these parts in the files; by default that of the parameters.
        configs: fields by the name of a JSON file of the folder, such as "unet/config.json", that
            are added to it, in place of those of the same name.

    Raises FileExistsError if the folder is there, and ValueError for a part that `like` does not
    have or whose parameters do not fit its config.
    """
    folder, like = Path(folder), Path(like)
    index = read_json(like / "model_index.json")
    known = {name: entry for name, entry in index.items() if isinstance(entry, list) and entry[1]}
    readable = [name for name, (_, kind) in known.items() if kind in KINDS]
    for name, params in parts.items():
        require_known(f"part of {like}", name, readable)
        changed = (configs or {}).get(f"{name}/config.json", {})
        _require_shapes(like / name, known[name][1], changed, params)
    shutil.copytree(like, folder, ignore=lambda path, _: _weights(Path(path), like, parts))
    for name, fields in (configs or {}).items():
        text = json.dumps(read_json(like / name) | dict(fields), indent=2) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    for name, params in parts.items():
        file = folder / name / f"{STEM[known[name][0]]}.safetensors"
        safetensors.write(file, to_tensors(params), dtype=dtype)


def _require_shapes(folder: Path, kind: str, changed: Mapping[str, Any], params: Any) -> None:
    config = read_json(folder / "config.json") | dict(changed)
    module = build(KINDS[kind], config, source=str(folder))
    wanted = jax.tree.map(lambda leaf: leaf.shape, shapes(KINDS[kind], module))
    if jax.tree.map(lambda leaf: leaf.shape, params) != wanted:
        raise ValueError(f"{folder}: the parameters do not fit config.json")


def _weights(folder: Path, like: Path, parts: Mapping[str, Any]) -> set[str]:
    """The names of the files of weights in a folder that is written anew."""
    if folder.parent != like or folder.name not in parts:
        return set()
    return {path.name for pattern in WEIGHTS for path in folder.glob(pattern)}
