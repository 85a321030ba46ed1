"""Reading only the parameters of a run's checkpoints, without the state of the optimizer."""

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from sde_diffusion.training import checkpoint

Step = int | Literal["best"] | None


class Parameters(NamedTuple):
    """Parameters, and the step at which they were saved."""

    params: Any
    step: int


class SavedParameters(NamedTuple):
    """Parameters in a checkpoint's folder `where`: average number `ema` out of `averages`.

    `kinds` has the dtype and shape of each leaf, and `sums` its checksum, by the leaf's path. All
    paths begin with `at`. `frozen` has the fingerprints of the frozen trees that the run uses.
    """

    where: epath.Path
    ema: int | None
    averages: int
    at: str
    kinds: dict[str, str]
    sums: dict[str, int]
    frozen: dict[str, str]


def restore_params(
    workdir: str | os.PathLike[str], abstract: Any, *, ema: int | None = 0, step: Step = None
) -> Parameters:
    """The parameters of a run, or one of their averages; the rest of the state is not read.

    Args:
        workdir: the run's folder, which is not changed.
        abstract: the shapes, dtypes and shardings of the parameters.
        ema: the number of the average, from 0; None for the parameters themselves.
        step: the step of the checkpoint; "best" for the one saved with the lowest loss, as defined
            for `keep_best`; None for the newest undamaged one.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: there is no checkpoint of this step, or no average of this number.
        CheckpointMismatch: the parameters are those of another network.
        DamagedCheckpoint: the checkpoint is damaged; without a given step, all of them are.
    """

    def read(where: epath.Path) -> Parameters:
        saved = _saved(where, ema)
        checkpoint.check_kinds(where, saved.kinds, checkpoint.kinds(abstract, saved.at))
        return Parameters(read_saved(saved, abstract), int(where.name))

    return _open(workdir, step, read)


def find(
    workdir: str | os.PathLike[str], *, ema: int | None = 0, step: Step = None
) -> SavedParameters:
    """The location, dtypes and shapes of the parameters that `restore_params` restores.

    Raises what `restore_params` raises.
    """
    return _open(workdir, step, lambda where: _saved(where, ema))


def read_saved(saved: SavedParameters, abstract: Any) -> Any:
    """The arrays of `abstract`, nested dicts that hold all or some of the saved parameters.

    Raises DamagedCheckpoint.
    """
    if saved.ema is None:
        params = checkpoint.read_part(saved.where, {"params": abstract})["params"]
    else:
        skipped = jax.tree.map(lambda _: ocp.PLACEHOLDER, abstract)
        part = [abstract if k == saved.ema else skipped for k in range(saved.averages)]
        params = checkpoint.read_part(saved.where, {"ema": part})["ema"][saved.ema]
    names = checkpoint.kinds(params, saved.at)
    checkpoint.check_sums(saved.where, {name: saved.sums[name] for name in names}, params)
    return params


def _open(
    workdir: str | os.PathLike[str], step: Step, read: Callable[[epath.Path], checkpoint.T]
) -> checkpoint.T:
    with checkpoint.read_checkpoints(workdir) as checkpoints:
        if step is None:
            return checkpoint.newest_whole(checkpoints, read)
        return read(_folder_of(checkpoints, step))


def _saved(where: epath.Path, ema: int | None) -> SavedParameters:
    meta = checkpoint.read_meta(where)
    averages, at = _averages(meta["leaves"]), ".params" if ema is None else f".ema[{ema}]"
    if ema is not None and ema not in range(averages):
        raise ValueError(f"{where} has {averages} averages (EMA) of the parameters, no {at}")
    kinds = {name: kind for name, kind in meta["leaves"].items() if name.startswith(at)}
    sums = dict(zip(meta["leaves"], meta["checksums"], strict=True))
    sums = {name: sums[name] for name in kinds}
    frozen = (meta["position"] or {}).get("frozen", {})  # only a run of `train` has them
    return SavedParameters(where, ema, averages, at, kinds, sums, frozen)


def _averages(leaves: Mapping[str, str]) -> int:
    numbers = [int(found[1]) for name in leaves if (found := re.match(r"\.ema\[(\d+)\]", name))]
    return max(numbers, default=-1) + 1


def _folder_of(checkpoints: ocp.CheckpointManager, step: int | str) -> epath.Path:
    steps = sorted(checkpoints.all_steps())
    workdir = checkpoints.directory.parent
    if not steps:
        raise FileNotFoundError(f"{workdir}: no checkpoint here")
    if step == "best":
        losses = {each: _loss(checkpoints.directory / str(each)) for each in steps}
        known = {each: loss for each, loss in losses.items() if loss is not None}
        if not known:
            raise ValueError(f"{workdir}: no checkpoint was saved with a loss, so none is the best")
        step = min(known, key=lambda each: known[each])
    if step not in steps:
        raise ValueError(f"{workdir} has no checkpoint of step {step}, only of {_list(steps)}")
    return checkpoints.directory / str(step)


def _loss(folder: epath.Path) -> float | None:
    """The loss that a checkpoint was saved with, from the file in which orbax stores it."""
    try:
        loss = json.loads((folder / "metrics" / "metrics").read_text())["loss"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(loss) if np.isfinite(loss) else None


def _list(steps: list[int]) -> str:
    return ", ".join(map(str, steps))
