"""Runs whose networks another run takes over: its teacher, and the base of its adapters.

Such a network reads latents and words as it was trained on them. A run that gave it others would go
wrong without a word, so they are compared before it begins.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from sde_diffusion import data, training
from sde_diffusion.cli import codec, run, start
from sde_diffusion.config import adapters, conditions
from sde_diffusion.config import schema as configs
from sde_diffusion.config.codecs import FrozenCodec
from sde_diffusion.training import parameters
from sde_diffusion.training.frozen import check_fingerprints, fingerprints


def runs(config: ConfigDict) -> Iterator[tuple[str, epath.Path]]:
    """(field, folder) of the runs whose networks are taken over; files of parameters are none."""
    based = adapters.has_adapters(config) or "codec" in config.init_from.groups
    paths = {
        "config.teacher.path": config.teacher.path,
        "config.init_from.path": config.init_from.path if based else "",
    }
    for flag, path in paths.items():
        if path and (run.folder(path, flag) / run.CONFIG).is_file():
            yield flag, run.folder(path, flag)


def require_another_folder(config: ConfigDict, workdir: epath.Path) -> None:
    """Raise ValueError where the run would be written over what it begins from."""
    for group in ("init_from", "teacher", "codec", "text"):
        path = config[group].path
        if path and run.folder(path, f"config.{group}.path").resolve() == workdir.resolve():
            raise ValueError(
                f"--workdir {workdir} is config.{group}.path as well: choose another folder"
            )


def require_same(
    config: ConfigDict, workdir: epath.Path, recipe: training.Recipe, shapes: Any = None
) -> None:
    """Raise ValueError where the run in `workdir` goes on with other networks than it began with.

    Networks that are where they were are compared by `training.train`, and those that were moved
    here, before the folder is written to. `shapes` are those of the network's parameters, with
    shardings, for a run that trains all of them.
    """
    began = configs.flatten(configs.from_json((workdir / run.CONFIG).read_text()))
    moved = {
        f"config.{field}": path
        for field, path in configs.flatten(config).items()
        if field in ("init_from.path", "teacher.path", "codec.path") and path != began[field]
    }
    if not moved:
        return
    try:
        saved = parameters.find(workdir, ema=None).frozen
        check_fingerprints(fingerprints(recipe.frozen), saved)
    except training.CheckpointMismatch as error:
        named = ", ".join(f"{field} {path!r}" for field, path in moved.items())
        raise ValueError(f"{named}, where {workdir} began with another: {error}") from error
    if shapes is None or adapters.has_adapters(config) or "config.init_from.path" not in moved:
        return
    if stored := run.stored(config):
        start.require_taken_over(workdir, stored, shapes, config.init_from.names)


def latents(config: ConfigDict) -> epath.Path | None:
    """The folder of the first of them that is a model of latents: they are scaled as there."""
    return next((folder for _, folder in runs(config) if (folder / codec.FILE).is_file()), None)


def require_same_latents(config: ConfigDict, coder: FrozenCodec | None) -> None:
    """Raise ValueError unless the networks were trained on latents of this codec and scale."""
    ours = None if coder is None else codec.told(coder)
    for flag, folder in runs(config):
        theirs = data.read_stored_codec(folder) if (folder / codec.FILE).is_file() else None
        if not _same(ours, theirs):
            raise ValueError(
                f"{flag} {folder} was trained on {_described(theirs)}, and this run is on "
                f"{_described(ours)}"
            )


def require_same_words(config: ConfigDict, features: data.Features) -> None:
    """Raise ValueError unless tokens stand for the words that the networks were trained with."""
    field = conditions.entries(config).get("tokens")
    for flag, folder in runs(config):
        theirs = run.read_data(folder).features
        if field is None or field not in features or field not in theirs:
            continue
        if features[field].words != theirs[field].words:
            raise ValueError(
                f"{flag} {folder} was trained with other words: take them over with data.words in "
                "config.init_from.groups"
            )


def _same(a: data.StoredCodec | None, b: data.StoredCodec | None) -> bool:
    if a is None or b is None:
        return a is b
    close = np.allclose((a.shift, a.scale), (b.shift, b.scale), rtol=1e-5, atol=1e-7)
    return a.fingerprint == b.fingerprint and bool(close)


def _described(stored: data.StoredCodec | None) -> str:
    if stored is None:
        return "images, not latents"
    return (
        f"latents of {stored.name} (fingerprint {stored.fingerprint}, shift {stored.shift:.5g}, "
        f"scale {stored.scale:.5g})"
    )
