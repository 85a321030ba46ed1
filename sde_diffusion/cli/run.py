"""A run's folder: the config that it belongs to, and the network that was trained in it."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from sde_diffusion import distributed, training
from sde_diffusion.config import build
from sde_diffusion.config import schema as configs
from sde_diffusion.data import Features

CONFIG = "config.json"
OF_DEVICES = ("mesh.", "training.compiler_options")
# What a run writes; --overwrite removes these and nothing else.
OWN = (
    *("checkpoints", "samples", "tensorboard", "metrics.jsonl", "loss.png", "samples.png"),
    *("evaluation.json", CONFIG),
)


def enable_cache() -> None:
    """Compiled programs are kept in the user's cache folder, for every run.

    With JAX_COMPILATION_CACHE_DIR they are kept there, which may be at gs://, as JAX does it.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        training.enable_compilation_cache(Path(root) / "sde_diffusion" / "xla")


def folder(workdir: str) -> epath.Path:
    """The folder of a run, here or at gs://; ValueError for another kind of address."""
    scheme, address, _ = workdir.partition("://")
    if address and scheme != "gs":
        # orbax would take the address for a path that is not absolute.
        raise ValueError(
            f"--workdir {workdir}: of buckets only gs:// can be written to; mount this one "
            "(mountpoint-s3, for example) and name its folder"
        )
    if address and importlib.util.find_spec("gcsfs") is None:
        raise ImportError(
            f"--workdir {workdir}: gs:// needs gcsfs: pip install 'sde-diffusion[gcs]'"
        )
    return epath.Path(workdir)


def claim(workdir: epath.Path, config: ConfigDict, *, overwrite: bool) -> None:
    """Make the folder that of this config; ValueError if it is another one's.

    With `overwrite` what another run left there is removed. Of several processes the first one does
    it, and the others wait.
    """
    if distributed.is_first_process():
        _claim(workdir, config, overwrite)
    distributed.wait_for_all("the folder is claimed")


def _claim(workdir: epath.Path, config: ConfigDict, overwrite: bool) -> None:
    path = workdir / CONFIG
    if path.exists() and overwrite:
        for name in OWN:
            target = workdir / name
            if target.is_dir():
                target.rmtree()
            else:
                target.unlink(missing_ok=True)
    if path.exists():
        # On whichever devices it goes on, and however compiled for them, it is the same run.
        theirs = configs.from_json(path.read_text())
        differ = [
            line for line in configs.differences(config, theirs) if not line.startswith(OF_DEVICES)
        ]
        if differ:
            raise ValueError(
                f"workdir {workdir} belongs to another config ({'; '.join(differ)}): choose "
                "another folder, or start anew with --overwrite"
            )
        return
    if (workdir / "checkpoints").exists():
        raise ValueError(
            f"workdir {workdir} has checkpoints but no {CONFIG}: choose another folder"
        )
    training.write_whole(path, configs.to_json(config))


def read_config(workdir: epath.Path, overrides: dict[str, str]) -> ConfigDict:
    """The config of a run; FileNotFoundError that names the folder if there is none.

    The mesh is not the run's but the default: the devices here may be others.
    """
    path = workdir / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"workdir {workdir} holds no run: there is no {path}")
    config = configs.from_json(path.read_text()).unlock()
    config.mesh = configs.default().mesh
    return configs.override(config.lock(), overrides)


def restore_params(workdir: epath.Path, config: ConfigDict, features: Features) -> tuple[Any, int]:
    """(parameters that sample, step) of the newest checkpoint."""
    init = build.init_params(config, features.event.shape)
    shapes = jax.eval_shape(init, jax.random.key(0))
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        distributed.state_shardings(build.mesh(config), shapes),
    )
    return training.restore_params(workdir, abstract, ema=0 if config.optim.ema_rates else None)


def sampling_params(state: training.TrainState) -> Any:
    """What samples: the parameters' first EMA where there is one."""
    return state.ema[0] if state.ema else state.params
