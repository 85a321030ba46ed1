"""A run's folder: its files, and the network that was trained in it."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from flax import serialization, traverse_util
from ml_collections import ConfigDict

from sde_diffusion import data, distributed, training
from sde_diffusion.config import (
    adapters,
    build,
    codecs,
    conditions,
    flow_maps,
    folders,
    text_encoders,
)
from sde_diffusion.config import schema as configs
from sde_diffusion.pretrained import safetensors
from sde_diffusion.pretrained.convert import INDEX
from sde_diffusion.pretrained.part import read_part
from sde_diffusion.training import frozen, init_from, parameters
from sde_diffusion.training.parameters import Step
from sde_diffusion.tree_names import few, named

CONFIG, DATA = "config.json", "data.json"
# What `distill --pretrained` leaves: a folder as diffusers writes it, or a file of adapters.
STUDENT, ADAPTERS = "student", "lora.safetensors"


class Described(NamedTuple):
    """The description of the data in a run's folder: the number of records and their features.

    prompts: a fingerprint of the texts, where a student learns from prompts alone.
    """

    records: int
    features: data.Features
    prompts: str | None = None


def enable_cache() -> None:
    """Stores compiled programs in the user's cache folder, for all runs.

    If JAX_COMPILATION_CACHE_DIR is set, JAX stores them there; it may be at gs://.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        training.enable_compilation_cache(Path(root) / "sde_diffusion" / "xla")


def folder(workdir: str, flag: str = "--workdir") -> epath.Path:
    """The folder of a run, here or at gs://; ValueError for another kind of address."""
    scheme, address, _ = workdir.partition("://")
    if address and scheme != "gs":
        # orbax would treat the address as a relative path.
        raise ValueError(
            f"{flag} {workdir}: of buckets only gs:// can be written to; mount this one "
            "(mountpoint-s3, for example) and name its folder"
        )
    if address and importlib.util.find_spec("gcsfs") is None:
        raise ImportError(f"{flag} {workdir}: gs:// needs gcsfs: pip install 'sde-diffusion[gcs]'")
    return epath.Path(workdir)


def read_config(workdir: epath.Path, overrides: dict[str, str]) -> ConfigDict:
    """The config of a run, without the run's mesh, because the devices may be different.

    Raises FileNotFoundError that names the folder if there is no run in it, and ValueError for the
    folder of a student of a pretrained folder, which is sampled by what it has written.
    """
    path = workdir / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"workdir {workdir} holds no run: there is no {path}")
    if kind := json.loads(path.read_text()).get("_class_name"):
        raise ValueError(
            f"{workdir} holds no run, but a {kind} of diffusers: a pretrained folder is named by "
            f"the one that has {INDEX}"
        )
    config = configs.from_json(path.read_text()).unlock()
    config.mesh = configs.default().mesh
    _require_networks_config(workdir, config)
    return configs.override(config.lock(), _moved(config, overrides))


def _require_networks_config(workdir: epath.Path, config: ConfigDict) -> None:
    """Raise ValueError for a folder of `distill --pretrained`: its config has no network."""
    student, adapted = workdir / STUDENT, workdir / ADAPTERS
    taught = student.exists() or adapted.exists() or folders.is_pretrained(config.teacher.path)
    if not config.teacher.path or not taught:
        return
    teacher = f"--pretrained {config.teacher.path}"
    result = "its training has not ended"
    if student.exists():
        result = f"use sample --pretrained {student}"
    elif adapted.exists():
        result = f"use sample {teacher} --lora {adapted}"
    raise ValueError(f"{workdir} is of distill {teacher}, which is no run to name here: {result}")


def _moved(config: ConfigDict, overrides: dict[str, str]) -> dict[str, str]:
    """The overrides; a pretrained base that was moved is also a new codec and text encoder."""
    old, new = config.init_from.path, overrides.get("init_from.path")
    if not old or new is None:
        return overrides
    same = [group for group in ("codec", "text") if config[group].path == old]
    return {f"{group}.path": new for group in same} | overrides


def read_data(workdir: epath.Path) -> Described:
    """The description of the run's data.

    Raises FileNotFoundError if there is none, as in folders of earlier versions, and ValueError if
    the file is not such a description.
    """
    path = workdir / DATA
    if not path.is_file():
        raise FileNotFoundError(
            f"workdir {workdir} has no {DATA}, which describes the data: an earlier version "
            "trained it; the same command train, once more, adds the file"
        )
    try:
        told = json.loads(path.read_text())
        features = data.Features.from_json(json.dumps(told["features"]))
        return Described(int(told["records"]), features, told.get("prompts"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe data ({error})") from error


def to_json(described: Described) -> str:
    """The text of the file that `read_data` reads."""
    features = json.loads(described.features.to_json())
    told = {"records": described.records, "features": features}
    if described.prompts is not None:
        told["prompts"] = described.prompts
    return json.dumps(told, indent=2, allow_nan=False) + "\n"


def stored(config: ConfigDict) -> init_from.Stored | None:
    """The parameters that config.init_from names; None where it names none.

    Raises FileNotFoundError and ValueError for a folder or a file that does not hold them.
    """
    group = config.init_from
    if not group.path:
        return None
    if group.path.endswith(".safetensors"):
        return init_from.in_arrays(group.path, safetensors.read(group.path))
    if group.path.endswith(".msgpack"):
        return init_from.in_arrays(group.path, _msgpack(group.path))
    if folders.is_pretrained(group.path):
        part, kind = folders.network_part(group.path)
        found = _on_the_host(part, kind)
        if not text_encoders.trained(config):
            return init_from.in_tree(str(part), found)
        text = text_encoders.read(config.text.path, put=_as_it_is)
        encoders = {name: each.params for name, each in text_encoders.inside(config, text).items()}
        return init_from.in_tree(group.path, {part.name: found, **encoders})
    path = folder(group.path, "config.init_from.path")
    if (path / CONFIG).is_file() and adapters.has_adapters(theirs := read_config(path, {})):
        step, ema = (None if value is None else str(value) for value in (group.step, group.ema))
        from sde_diffusion.cli import codec  # which reads runs by this module

        features = codecs.sampled(read_data(path).features, codec.of_run(path, theirs))
        found = restore_params(path, theirs, features, step=step, ema=ema or "none")
        whole = jax.tree.map(np.asarray, found.params)
        return init_from.in_tree(f"{path} at step {found.step}", whole)
    return init_from.in_run(path, ema=group.ema, step=group.step)


def _on_the_host(part: Path, kind: Any) -> Any:
    """The parameters of a part of a pretrained folder, from where each device takes its share."""
    return read_part(part, kind, put=_as_it_is).params


def _as_it_is(_: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    return array


def base_config(config: ConfigDict, overrides: dict[str, str]) -> ConfigDict:
    """The config with what config.init_from.groups takes over from the run that is its base.

    The base may be a pretrained folder: pictures are then of its size, where nothing else is asked.

    Raises ValueError where config.init_from.path names no run.
    """
    group = config.init_from
    if not group.groups:
        return config
    if folders.is_pretrained(group.path):
        made = config.copy_and_resolve_references().unlock()
        if "size" in made.data.source:
            made.init_from.groups = (*group.groups, "data.source.size")
        return adapters.inherited(made.lock(), folders.config_of(group.path), overrides)
    path = folder(group.path, "config.init_from.path")
    if not (path / CONFIG).is_file():
        raise ValueError(
            f"config.init_from.path {group.path!r} is no folder of a run or of diffusers, from "
            f"whose config {', '.join(group.groups)} would be taken (config.init_from.groups)"
        )
    made = adapters.inherited(config, read_config(path, {}), overrides)
    return with_words(path, made)


def with_words(workdir: epath.Path, config: ConfigDict) -> ConfigDict:
    """The config with the words that a run knows, under the tokens that it knows them by.

    Other data than the run's own are then told in the same tokens.
    """
    in_words = config.data.tokens is not None and config.data.tokenizer == "words"
    if not in_words or config.data.words or conditions.reads_text(config):
        return config
    made = config.copy_and_resolve_references()
    made.data.words = read_data(workdir).features["tokens"].words
    return made


def base(config: ConfigDict, features: data.Features) -> Any:
    """The parameters that config.lora adapts, all of which config.init_from has to name.

    The layers by which a flow map is told its numbers, which its teacher does not have, are new:
    they are drawn from the run's seed. Raises what `stored` raises, and ValueError where another
    parameter is not there.
    """
    found, shapes = stored(config), abstract(config, features)
    if found is None:
        raise ValueError("config.lora.rank needs a base: set config.init_from.path")
    plan = init_from.plan(found, shapes, config.init_from.names)
    told = [f"number_{name}" for name in flow_maps.numbers(config)]
    new = {name for name in plan.missing if any(layer in name for layer in told)}
    if absent := [name for name in (*plan.missing, *plan.unwanted) if name not in new]:
        raise ValueError(
            f"{found.name} is no base for adapters (config.lora): {len(absent)} parameters of the "
            f"network are not taken from it: {few(absent)}"
        )
    leaves = named(shapes)
    arrays = found.read({name: leaf for name, leaf in leaves.items() if name not in new})
    if new:
        init = jax.jit(build.init_params(config, features.event.shape))
        drawn = named(init(jax.random.key(config.seed)))
        arrays |= {name: jax.device_put(drawn[name], leaves[name].sharding) for name in new}
    return jax.tree.unflatten(jax.tree.structure(shapes), [arrays[name] for name in leaves])


def restore_params(
    workdir: epath.Path,
    config: ConfigDict,
    features: data.Features,
    *,
    step: str | None = None,
    ema: str | None = None,
) -> training.Parameters:
    """The parameters for sampling, from the newest checkpoint unless `step` is given.

    Args:
        step: the number of a step, or "best".
        ema: the number of an average, or "none" for the parameters themselves; by default the first
            average where there is one.

    Where these are adapters, the result is the parameters of the base with the adapters merged.
    Raises CheckpointMismatch if the base is not the one that they were trained with.
    """
    if problem := next(adapters.problems(config), None):
        raise ValueError(problem)
    if not adapters.has_adapters(config):
        which, at = _which_average(ema, config), which_step(step)
        return training.restore_params(workdir, abstract(config, features), ema=which, step=at)
    found = restore_adapters(workdir, config, features, step=step, ema=ema)
    whole = base(config, features)
    which = _which_average(ema, config)
    saved = parameters.find(workdir, ema=which, step=found.step).frozen
    here, there = frozen.fingerprints({adapters.BASE: whole}), saved.get(adapters.BASE, "absent")
    frozen.check_fingerprints(here, {adapters.BASE: there})
    return found._replace(params=adapters.merged(config, whole, found.params))


def restore_adapters(
    workdir: epath.Path,
    config: ConfigDict,
    features: data.Features,
    *,
    step: str | None = None,
    ema: str | None = None,
) -> training.Parameters:
    """The adapters alone of a run that trains some; the arguments are those of `restore_params`."""
    pairs = jax.eval_shape(adapters.init(config, abstract(config, features)), jax.random.key(0))
    which, at = _which_average(ema, config), which_step(step)
    return training.restore_params(workdir, _placed(config, pairs), ema=which, step=at)


def abstract(config: ConfigDict, features: data.Features) -> Any:
    """The shapes of the network's parameters, with their shardings."""
    init = build.init_params(config, features.event.shape)
    return _placed(config, jax.eval_shape(init, jax.random.key(0)))


def _placed(config: ConfigDict, shapes: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        distributed.state_shardings(build.mesh(config), shapes),
    )


def which_step(text: str | None) -> Step:
    """What --step says: a number, "best", or None for the newest checkpoint."""
    if text is None:
        return None
    if text == "best":
        return "best"
    if not text.isdecimal():
        raise ValueError(f"--step takes the number of a step, or best; got {text!r}")
    return int(text)


def _which_average(text: str | None, config: ConfigDict) -> int | None:
    rates = config.optim.ema_rates
    if text is None:
        return 0 if rates else None
    if text == "none":
        return None
    if not text.isdecimal() or int(text) >= len(rates):
        known = ", ".join(f"{k} (rate {rate:g})" for k, rate in enumerate(rates))
        raise ValueError(f"--ema takes none{', ' if rates else ''}{known}; got {text!r}")
    return int(text)


def sampling_params(state: training.TrainState) -> Any:
    """The parameters for sampling: their first EMA, if there is one."""
    return state.ema[0] if state.ema else state.params


def _msgpack(path: str) -> dict[str, np.ndarray]:
    """The arrays of a tree that flax.serialization.to_bytes wrote, by names such as "a/b/c"."""
    file = epath.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        tree: Any = serialization.msgpack_restore(file.read_bytes())
        arrays = traverse_util.flatten_dict(tree, sep="/")
    except Exception as error:  # msgpack raises a dozen types, such as ExtraData and UnpackValue
        raise ValueError(f"{path}: not a tree of arrays in msgpack ({error})") from error
    return {name: np.asarray(array) for name, array in arrays.items()}
