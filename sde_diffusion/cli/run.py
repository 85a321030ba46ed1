"""A run's folder: its files, and the network that was trained in it."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from sde_diffusion import data, distributed, training
from sde_diffusion.config import build
from sde_diffusion.config import schema as configs
from sde_diffusion.training.parameters import Step

CONFIG, DATA = "config.json", "data.json"


class Described(NamedTuple):
    """The description of the data in a run's folder: the number of records and their features."""

    records: int
    features: data.Features


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
    """The config of a run; FileNotFoundError that names the folder if there is none.

    The mesh is the default one, not that of the run, because the devices may be different.
    """
    path = workdir / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"workdir {workdir} holds no run: there is no {path}")
    config = configs.from_json(path.read_text()).unlock()
    config.mesh = configs.default().mesh
    return configs.override(config.lock(), overrides)


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
        return Described(int(told["records"]), features)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe data ({error})") from error


def to_json(described: Described) -> str:
    """The text of the file that `read_data` reads."""
    features = json.loads(described.features.to_json())
    told = {"records": described.records, "features": features}
    return json.dumps(told, indent=2, allow_nan=False) + "\n"


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
    """
    init = build.init_params(config, features.event.shape)
    shapes = jax.eval_shape(init, jax.random.key(0))
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        distributed.state_shardings(build.mesh(config), shapes),
    )
    which = _which_average(ema, config)
    return training.restore_params(workdir, abstract, ema=which, step=which_step(step))


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
