"""convert(source, folder): a single file, or a folder, as a folder that diffusers loads."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sde_diffusion.pretrained import published, safetensors, single_file
from sde_diffusion.pretrained.folder import PICKLED, read_json, read_weights, refusal
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import build, shapes
from sde_diffusion.pretrained.save import STEM, WEIGHTS
from sde_diffusion.pretrained.tensors import Tensors, fitting

Name = str | os.PathLike[str]
INDEX = "model_index.json"


def convert(
    source: Name,
    folder: Name,
    *,
    like: Name | None = None,
    variant: str | None = None,
    dtype: Any = None,
) -> None:
    """Write the pipeline in a single file, or in a folder, as a folder that diffusers loads.

    Each part has one file, without a variant in its name. Tensors are read and written one at a
    time, and keep their values.

    Args:
        source: a file of safetensors, or a pipeline's folder.
        folder: where to; it must not be there.
        like: for a single file, see `load`.
        variant: for a folder, which of its weights, such as "fp16".
        dtype: of the weights in the files; by default as they are.

    Raises FileExistsError if the folder is there, and FileNotFoundError or ValueError, in one line,
    for a source that is not whole or not supported.
    """
    source, folder = Path(source), Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} is there already")
    if source.is_dir():
        if like is not None:
            raise ValueError(f"{source} is a folder, which has all of its configs: leave out like")
        _write(folder, source, _weights(source, variant), dtype)
        return
    if variant is not None:
        raise ValueError(f"{source} is one file, which has no variants: leave out variant")
    with opened(source, like) as (configs, weights):
        _write(folder, configs, weights, dtype)


@contextlib.contextmanager
def opened(source: Name, like: Name | None) -> Iterator[tuple[Path, dict[str, Tensors]]]:
    """The folder with the configs of a single file, and the tensors of each part.

    The folder is `like`, or a temporary one where `like` has CLIP's tokenizer only.

    Raises what `convert` does.
    """
    source = Path(source)
    if source.suffix in PICKLED:
        raise ValueError(refusal(source))
    tensors = safetensors.read(source)
    family = single_file.family(tensors, str(source))
    if like is None:
        raise ValueError(
            f"{source} has no tokenizer: name with `like` a folder with CLIP's vocab.json and "
            "merges.txt, or the folder of a pipeline of this shape"
        )
    with contextlib.ExitStack() as stack:
        configs = Path(like)
        if not (configs / INDEX).is_file():
            configs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            published.write_configs(configs, family, like)
        given = read_json(configs / INDEX).get("_class_name")
        if given != family:
            raise ValueError(f"{source} is a {family}, but {like} is a {given}")
        parts = set(single_file.FAMILIES[family].values())
        read = {part: read_json(configs / part / "config.json") for part in parts}
        yield configs, dict(single_file.split(tensors, read, str(source)))


def _weights(folder: Path, variant: str | None) -> dict[str, Tensors]:
    """The tensors of each part of a pipeline's folder that has weights."""
    return {part: read_weights(folder / part, variant) for part in _parts(folder)}


def _parts(folder: Path) -> dict[str, tuple[str, str]]:
    """The library and the class of each part of a folder that is read here, by its name."""
    index = read_json(folder / INDEX)
    return {
        name: (entry[0], entry[1])
        for name, entry in index.items()
        if isinstance(entry, list) and entry[1] in KINDS
    }


def _write(folder: Path, configs: Path, weights: Mapping[str, Tensors], dtype: Any) -> None:
    parts, named = _parts(configs), {}
    for name, tensors in weights.items():
        kind = KINDS[parts[name][1]]
        source = str(configs / name)
        module = build(kind, read_json(configs / name / "config.json"), source=source)
        named[name] = fitting(shapes(kind, module), tensors, kind.renames, source)

    def written_anew(path: str, names: list[str]) -> set[str]:
        # The weights of parts that are not read here, such as a safety checker, are copied.
        anew = [configs, *(configs / name for name in named)]
        skip = shutil.ignore_patterns(*WEIGHTS)
        return skip(path, names) if Path(path) in anew else set()

    shutil.copytree(configs, folder, ignore=written_anew)
    for name, tensors in named.items():
        file = folder / name / f"{STEM[parts[name][0]]}.safetensors"
        safetensors.write(file, tensors, dtype=dtype)
