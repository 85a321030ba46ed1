"""The fields of an experiment's config, with their defaults, and how they are read and changed.

    from sde_diffusion.config import choice, default

    def get_config():
        config = default()
        config.sde = choice("sde", "ve", sigma_max=50.0)
        config.training.steps = 100_000
        return config

A group with a `name` also holds the fields of what is named; `choice` gives it their defaults.
"""

import ast
import inspect
import json
import math
import re
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sde_diffusion import grids, objectives, parameterization, samplers, sdes
from sde_diffusion.config.flow_maps import FLOW_MAPS
from sde_diffusion.data import SOURCES
from sde_diffusion.networks import AUTOENCODERS, NETWORKS
from sde_diffusion.objectives import time_density
from sde_diffusion.selection import choose, require_known, unknown


def _without_fields() -> None:
    """A choice that has no fields."""


def _fitted(path: str = "") -> None:
    """A solver from the file that `fit` wrote."""


# What the names in a group stand for; the group's fields are the parameters of that callable.
CHOICES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "sde": sdes.KINDS,
    "network": NETWORKS | AUTOENCODERS,
    "parameterization": parameterization.PARAMETERIZATIONS,
    "conditions.image.of": {"record": _without_fields, **objectives.IMAGE_CONDITIONS},
    "flow_map": FLOW_MAPS,
    "loss.weighting": objectives.WEIGHTINGS,
    "loss.times": time_density.TIMES,
    "data.source": SOURCES,
    "data.prior": {"none": _without_fields, **SOURCES},
    "sampling.grid": grids.GRIDS,
    "sampling.solver": {"fitted": _fitted, **samplers.SOLVERS, **samplers.MAPS},
    "sampling.corrector": {"none": _without_fields, **samplers.CORRECTORS},
}

# Fields that --config.preset=NAME sets together. A field that is set beside it has the last word.
PRESETS = {
    # The fastest training step on a slice of TPUs: experiments/benchmarks/README.md.
    "tpu": {"network.dtype": "bfloat16", "mesh.data": "-1", "mesh.fsdp": "-1"},
}


def choice(group: str, name: str, **fields: Any) -> ConfigDict:
    """The group's fields for one of its names, with defaults where they are not given.

    Raises ValueError for an unknown group, name or field, with the nearest, and for a field that
    has no default and is not given.
    """
    make = choose(f"config.{group}.name", name, choose("group with a name", group, CHOICES))
    parameters = {
        key: parameter
        for key, parameter in inspect.signature(make).parameters.items()
        # flax's own, and what the sampler gives a grid
        if key not in ("parent", "name", "sde")
        and not (group == "sampling.grid" and key in ("steps", "t_min", "t_max"))
    }
    for field in fields:
        require_known(f"field of config.{group} ({name})", field, parameters)
    values = {key: p.default for key, p in parameters.items()} | fields
    for key, value in values.items():
        if value is inspect.Parameter.empty:
            raise ValueError(f"config.{group} ({name}) needs the field {key!r}")
    return ConfigDict({"name": name, **values})


def fields(group: ConfigDict) -> dict[str, Any]:
    """The fields of what the group's `name` stands for."""
    return {key: value for key, value in group.items() if key != "name"}


def _condition() -> dict[str, Any]:
    return {
        "drop": 0.0,  # how often it is left out in training, for guidance
        "null": None,  # the number that then fills its place; None for what means none
    }


def default() -> ConfigDict:
    """Every field of a config, locked: an experiment's file says what differs."""
    config = ConfigDict(
        {
            "seed": 0,
            "sde": choice("sde", "vp"),
            "network": choice(
                "network", "ncsnpp", embedding_type="positional", scale_by_sigma=False
            ),
            "parameterization": choice("parameterization", "ddpm"),
            "loss": {
                "name": "denoising",  # (continuous time), smld or ddpm (discrete), or autoencoding
                "weighting": choice("loss.weighting", "constant"),
                "times": choice("loss.times", "uniform"),
                "draw": "independent",  # or stratified
                "reduction": "mean",  # over a sample's dimensions, or half_sum
                # Weights of an autoencoder's loss: of the mean absolute and squared error, and of
                # the divergence of its latents over the number of an image's values.
                "autoencoding": {"l1": 1.0, "l2": 0.0, "kl": 1e-6},
            },
            # A network of two times, for samples in a few evaluations, in place of a denoiser.
            "flow_map": choice("flow_map", "none"),
            "teacher": {  # the run whose flow it learns; without one, the data's
                "path": "",
                "step": None,  # the number of a checkpoint, or "best"; None for the last
                "ema": 0,  # the number of an average; None for the parameters themselves
                "guidance": None,  # its weight, or (low, high), of which the student is told one
            },
            "codec": {  # the run of the autoencoder whose latents are modelled; "" for none
                "path": "",
                "step": None,  # the number of a checkpoint, or "best"; None for the last
                "ema": 0,  # the number of an average; None for the parameters themselves
            },
            "text": {  # the encoders of a pretrained folder: texts to embeddings
                "path": "",
                "trained": False,  # whether they are parts of the network, or frozen
            },
            "optim": {
                "name": "adam",  # or adamw
                "lr": 2e-4,
                "schedule": "constant",  # or cosine, to 0 at the last step
                "warmup": 5000,  # steps
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.0,  # of adamw
                "clip_norm": 1.0,  # of the gradient; None for no clipping
                "accumulate": 1,  # parts of a batch, one after the other
                "ema_rates": (0.9999,),  # the first one is what samples
            },
            "data": {
                "source": choice("data.source", "digits"),
                # Pictures that the model knows already, for half of each batch, and their weight.
                "prior": choice("data.prior", "none"),
                "prior_weight": 1.0,
                "range": (-1.0, 1.0),  # what the data's own range is mapped to
                "flip": False,
                "dequantize": False,
                "tokens": None,  # how many tokens of its `text` a record has as `tokens`
                "tokenizer": "bytes",  # or words: those of the data, network.vocabulary of them
                "words": (),  # that have tokens; () for the most frequent ones of the data
            },
            # What the network is told, for each of the conditions that it has a field for.
            "conditions": {
                "label": _condition(),
                "tokens": {"field": "tokens", **_condition()},
                "image": {
                    "of": choice("conditions.image.of", "record"),  # or made of the sample itself
                    "field": "condition",  # of a record
                    **_condition(),
                },
                # An encoder's embeddings of a text; `null` stands for no text where no encoder
                # says otherwise, and `guidance` is the weight that a network like Flux dev is told.
                "text": {"drop": 0.0, "null": 0.0, "guidance": 3.5},
            },
            "training": {
                "batch_size": 128,
                "steps": 1_300_001,
                "steps_per_call": 1,  # in one compiled call
                "compiler_options": "",  # of XLA for the step: name=value,name=value
                "log_every": 100,
                "sample_every": 10_000,
                "checkpoint_every": 5000,
                "keep": 3,  # newest checkpoints
                "keep_every": None,  # steps; these checkpoints stay for good
                "keep_best": None,  # checkpoints, by the mean loss since the one before
            },
            "init_from": {  # parameters that a run begins with, in place of random ones
                "path": "",  # a run's folder, a .safetensors or a .msgpack file
                "names": "*",  # which of the network's, as in "down_*,!down_0/*"
                "step": None,  # of a run: the number of a checkpoint, or "best"; None for the last
                "ema": 0,  # of a run: the number of an average; None for the parameters themselves
                "groups": (),  # of a run: parts of its config that become ours, such as "network"
            },
            "lora": {  # low-rank adapters of the network that init_from names
                "rank": None,  # None for no adapters: all parameters are trained
                "alpha": None,  # the change is alpha / rank times the product; None for 1 times
                "names": "*",  # of the matrices that have adapters, as in "*attention*,!down_0/*"
                "weight": 1.0,  # of the trained change, in sampling
            },
            "sampling": {
                "solver": choice("sampling.solver", "dpmpp_2m"),
                "corrector": choice("sampling.corrector", "none"),
                "grid": choice("sampling.grid", "log_snr"),
                "steps": 20,  # of the solver
                "denoise_last": True,  # by one more evaluation
                "t_min": None,  # where sampling stops, if later than that of the SDE
                "guidance": {  # classifier-free, to all of the network's conditions
                    "weight": 1.0,  # 1 for none
                    "interval": None,  # (low, high), the noise levels sigma / alpha; None for all
                    "batched": True,  # both branches in one call, or in two of less memory
                },
                "batch_size": 1000,
            },
            "eval": {
                "num": 1000,  # samples
                "data": 10_000,  # records that these are compared with, at most
                "bits": 256,  # data whose bits per dimension are measured
                # Among so many captions that of a picture is sought; 0 for none.
                "captions": 100,
                "judge_steps": 700,  # of training the judge of pictures and captions
                "parts": (),  # of a source with parts, whose captions are tried beside its own
                "seed": 0,
            },
            "mesh": {  # its sizes multiply to all the devices of all hosts; -1 for the rest
                "data": -1,  # copies of the state
                "fsdp": 1,  # parts that each copy is split into; beside data=-1, -1 for up to 16
                "slices": -1,  # of TPUs, joined by a slower network: no copy is split over two
            },
        }
    )
    return config.lock()


def load(path: str | Path, overrides: Mapping[str, str] | None = None) -> ConfigDict:
    """The config that get_config() of a Python file returns, changed by `overrides`.

    Raises FileNotFoundError if there is no such file, and ValueError that names the file if it
    fails or gives no config.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"config file {path} does not exist")
    try:
        config = runpy.run_path(str(path))["get_config"]()
    except (Exception, SystemExit) as error:
        if error.args == ("get_config",):
            raise ValueError(f"config file {path} does not define get_config()") from error
        reason = str(error) or type(error).__name__
        locked = re.search(r'Key "(\w+)" does not exist', reason)  # ml_collections on a new field
        if locked:
            names = {field for key in flatten(default()) for field in key.split(".")}
            reason = unknown("field", locked[1], sorted(names))
        raise ValueError(f"config file {path} fails: {reason}") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(f"config file {path}: get_config() must return a ConfigDict")
    return override(config, overrides or {})


def override(config: ConfigDict, overrides: Mapping[str, str]) -> ConfigDict:
    """A copy of the config with fields set from text, such as {"optim.lr": "3e-4"}.

    {"preset": name} sets the fields of PRESETS[name], before all others.
    A new name of a group brings that choice's own fields with it. Raises ValueError for an unknown
    field, with the nearest, and for a value of another type.
    """
    config = config.copy_and_resolve_references()
    if "preset" in overrides:
        preset = choose("config.preset", overrides["preset"], PRESETS)
        overrides = preset | {key: overrides[key] for key in overrides if key != "preset"}
    # Names first: what else is set belongs to the new choice.
    for key in sorted(overrides, key=lambda key: not key.endswith(".name")):
        group, _, field = key.rpartition(".")
        if field == "name" and group in CHOICES:
            name = overrides[key]
            _set(config, group, choice(group, name, **_without_default(group, name, overrides)))
        else:
            _set(config, key, overrides[key])
    return config


def _without_default(group: str, name: str, overrides: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a choice that have no default, as far as the overrides give them."""
    make = CHOICES[group].get(name, _without_fields)
    return {
        field: _parse(overrides[f"{group}.{field}"], "" if parameter.annotation is str else None)
        for field, parameter in inspect.signature(make).parameters.items()
        if parameter.default is parameter.empty and f"{group}.{field}" in overrides
    }


def _set(config: ConfigDict, key: str, value: str | ConfigDict) -> None:
    known = [*flatten(config), *CHOICES]
    if key not in known:
        group = [name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0]]
        raise ValueError(unknown("config field", key, group or known))
    *groups, field = key.split(".")
    for name in groups:
        config = config[name]
    if isinstance(value, ConfigDict):
        config[field] = value
        return
    try:
        config[field] = _parse(value, config[field])
    except TypeError as error:
        kind = type(config[field]).__name__
        raise ValueError(f"config.{key} takes a value of type {kind}, got {value!r}") from error


def _parse(text: str, current: Any) -> Any:
    if isinstance(current, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        of_words = isinstance(current, tuple) and all(isinstance(each, str) for each in current)
        if of_words:
            return tuple(text.split(",")) if text else ()
        return text
    if isinstance(current, tuple) and not isinstance(value, tuple):
        return tuple(value) if isinstance(value, list) else (value,)
    return value


def flatten(config: ConfigDict) -> dict[str, Any]:
    """{"optim.lr": 2e-4, ...}: every field by its full name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def differences(ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """A line for each field in which two configs differ."""
    a, b = flatten(ours), flatten(theirs)
    return [
        f"{key}: {a.get(key, 'absent')!r} instead of {b.get(key, 'absent')!r}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON; tuples become lists, which from_json turns back.

    Raises ValueError for a number that JSON has not.
    """
    for field, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"config.{field} is {value}, which is no finite number")
    return json.dumps(config.to_dict(), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> ConfigDict:
    """The config that to_json wrote; what an earlier version had no field for is at its default."""

    def tuples(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(tuples(v) for v in value)
        if isinstance(value, dict):
            return {k: tuples(v) for k, v in value.items()}
        return value

    def complete(config: ConfigDict, known: ConfigDict, group: str) -> None:
        for key, value in known.items():
            if key not in config:
                config[key] = value
            elif isinstance(value, ConfigDict) and group + key not in CHOICES:
                complete(config[key], value, f"{group}{key}.")

    config = ConfigDict(tuples(json.loads(text)))
    complete(config, default(), "")
    return config.lock()
