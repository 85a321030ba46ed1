"""Checkpoints: the training state and the data's position, written by orbax while the run goes on.

A checkpoint is used only if it is complete and undamaged: orbax renames it to its final name after
the last byte is written, and each leaf of the state must have the checksum that it had on the
device. (Orbax itself detects truncated and missing files, but not a flipped bit in the data.)
"""

import errno
import gc
import json
import logging
import os
import shutil
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath
from jax import lax
from orbax.checkpoint.checkpoint_managers import preservation_policy

from sde_diffusion import distributed
from sde_diffusion.training.disk import absolute, disk_errors, in_bucket
from sde_diffusion.training.state import TrainState

FOLDER = "checkpoints"
log = logging.getLogger(__name__)
T = TypeVar("T")


class CheckpointMismatch(ValueError):
    """The checkpoint belongs to another network, optimizer or set of EMA rates."""


class DamagedCheckpoint(ValueError):
    """The checkpoint cannot be read, or differs from what was written."""


class Restored(NamedTuple):
    """A state, the number of its step, and the position of the data at that step."""

    state: Any
    step: int
    position: Any


@contextmanager
def open_checkpoints(
    workdir: str | os.PathLike[str],
    *,
    keep: int = 3,
    keep_every: int | None = None,
    keep_best: int | None = None,
) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints of a run that is about to train; incomplete ones of a killed run are deleted.

    Three kinds are kept: the last `keep`, those whose step is a multiple of `keep_every`, and the
    `keep_best` that were saved with the lowest loss. On exit, this waits until the checkpoint that
    is being written is complete.
    """
    for name, value in {"keep": keep, "keep_every": keep_every, "keep_best": keep_best}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: {value} is not at least 1")
    policies: list[Any] = [preservation_policy.LatestN(keep)]
    if keep_every is not None:
        policies.append(preservation_policy.EveryNSteps(keep_every))
    if keep_best is not None:
        policies.append(
            preservation_policy.BestN(get_metric_fn=_loss_of, reverse=True, n=keep_best)
        )
    folder = absolute(workdir) / FOLDER
    _say_errors_once()
    with disk_errors(folder):
        checkpoints = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
                best_fn=_loss_of,  # without it orbax would not store the loss
                cleanup_tmp_directories=True,
            ),
        )
    try:
        yield checkpoints
    finally:
        with disk_errors(folder):
            checkpoints.close()


def save(
    checkpoints: ocp.CheckpointManager,
    step: int,
    state: TrainState,
    position: Any,
    loss: float | None = None,
) -> None:
    """Starts writing the state after `step` updates; `position` is any JSON value.

    The state is copied before this returns, so it may be donated. The files are written in the
    background, and the next `save` or `finish` raises an error that occurs there. Raises OSError if
    the disk is full.
    """
    finish(checkpoints)
    _check_room(checkpoints.directory, state)
    body = {
        "position": position,
        "leaves": kinds(state),
        "checksums": np.asarray(checksums(state)).tolist(),
    }
    meta = {"body": body, "crc32": _crc32(body)}
    with disk_errors(checkpoints.directory):
        checkpoints.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(cast(Any, state)), meta=ocp.args.JsonSave(meta)
            ),
            metrics=None if loss is None else {"loss": loss},
            force=True,
        )


def finish(checkpoints: ocp.CheckpointManager) -> None:
    """Waits until the checkpoint is written; raises OSError if the disk is full."""
    with disk_errors(checkpoints.directory):
        checkpoints.wait_until_finished()


def restore(checkpoints: ocp.CheckpointManager, abstract: TrainState) -> Restored:
    """The newest undamaged checkpoint, with the shardings of `abstract`.

    Damaged ones are skipped with a warning. Raises FileNotFoundError if there is no checkpoint,
    DamagedCheckpoint if all are damaged, CheckpointMismatch if `abstract` is of another model.
    """
    return newest_whole(checkpoints, lambda where: _restore_state(where, abstract))


@contextmanager
def read_checkpoints(workdir: str | os.PathLike[str]) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints of a run, opened for reading only.

    Raises FileNotFoundError if `workdir` has none.
    """
    folder = absolute(workdir) / FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(f"{workdir}: no checkpoint here")
    _say_errors_once()
    options = ocp.CheckpointManagerOptions(
        read_only=True, save_interval_steps=0, create=False, cleanup_tmp_directories=False
    )
    with ocp.CheckpointManager(folder, options=options) as checkpoints:
        yield checkpoints


def newest_whole(checkpoints: ocp.CheckpointManager, read: Callable[[epath.Path], T]) -> T:
    """`read(folder)` of the newest checkpoint for which it does not raise DamagedCheckpoint.

    Raises as `restore` does.
    """
    steps = sorted(checkpoints.all_steps(), reverse=True)
    if not steps:
        raise FileNotFoundError(f"{checkpoints.directory.parent}: no checkpoint here")
    for step in steps[:-1]:
        try:
            return read(checkpoints.directory / str(step))
        except DamagedCheckpoint as damage:
            log.warning("%s; falling back to the one before", damage)
    return read(checkpoints.directory / str(steps[-1]))


def set_aside_newer(checkpoints: ocp.CheckpointManager, step: int) -> None:
    """Renames the checkpoints after `step` to `damaged-*`, so that the run can write them again."""
    folder = checkpoints.directory
    if distributed.is_first_process():
        for newer in [other for other in checkpoints.all_steps() if other > step]:
            (folder / f"damaged-{newer}").rmtree(missing_ok=True)
            (folder / str(newer)).rename(folder / f"damaged-{newer}")
    distributed.wait_for_all("damaged checkpoints are set aside")
    checkpoints.reload()


@jax.jit
def checksums(tree: Any) -> jax.Array:
    """One uint32 for each leaf, [number of leaves]: the sum, modulo 2^32, of its elements' bits.

    A sum of integers does not depend on the order, and so not on how the leaf is sharded.
    """

    def checksum(leaf: jax.Array) -> jax.Array:
        if leaf.dtype == bool:
            bits = leaf.astype(jnp.uint8)
        else:
            bits = lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
        return jnp.sum(bits, dtype=jnp.uint32)

    return jnp.stack([checksum(leaf) for leaf in jax.tree.leaves(tree)])


def read_meta(where: epath.Path) -> dict[str, Any]:
    """The description of a checkpoint: the data's "position", and for each leaf of the state, in
    order, its dtype and shape ("leaves", see `kinds`) and its checksum ("checksums").

    Raises DamagedCheckpoint.
    """
    with damage_to(where):
        meta = _read_alone(ocp.JsonCheckpointHandler, where / "meta", ocp.args.JsonRestore())
        if _crc32(meta["body"]) != meta["crc32"]:
            raise ValueError("meta differs from what was written")
        return {name: meta["body"][name] for name in ("position", "leaves", "checksums")}


def read_part(where: epath.Path, part: Any) -> Any:
    """Reads only the arrays of `part`, a part of the state as nested dicts of abstract arrays.

    A tuple must have all the entries that it has in the state; `ocp.PLACEHOLDER` skips an entry.
    Raises DamagedCheckpoint.
    """
    with damage_to(where):
        _read_index(where / "state")
        args = ocp.args.PyTreeRestore(
            part,
            restore_args=ocp.checkpoint_utils.construct_restore_args(part),
            partial_restore=True,
        )
        return _read_alone(ocp.PyTreeCheckpointHandler, where / "state", args)


def check_kinds(where: epath.Path, saved: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raises CheckpointMismatch that names the first leaf that differs."""
    for name in [*wanted, *saved]:
        if saved.get(name) != wanted.get(name):
            raise CheckpointMismatch(
                f"{where} is of another model: state{name} is {saved.get(name, 'absent')} there "
                f"and {wanted.get(name, 'absent')} here"
            )


def check_sums(where: epath.Path, saved: Mapping[str, int], tree: Any) -> None:
    """Raises DamagedCheckpoint that names the first leaf of `tree` without its checksum."""
    for (name, before), now in zip(saved.items(), np.asarray(checksums(tree)), strict=True):
        if before != now:
            raise DamagedCheckpoint(
                f"{where} is damaged: state{name} differs from what was written"
            )


def kinds(tree: Any, at: str = "") -> dict[str, str]:
    """{path of a leaf: dtype and shape}, in the order of the leaves; the paths begin with `at`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {at + jax.tree_util.keystr(p): f"{leaf.dtype}{list(leaf.shape)}" for p, leaf in leaves}


def _restore_state(where: epath.Path, abstract: TrainState) -> Restored:
    meta = read_meta(where)
    check_kinds(where, meta["leaves"], kinds(abstract))
    with damage_to(where):
        _read_index(where / "state")
        args = ocp.args.StandardRestore(cast(Any, abstract))
        state = _read_alone(ocp.StandardCheckpointHandler, where / "state", args)
    check_sums(where, dict(zip(meta["leaves"], meta["checksums"], strict=True)), state)
    return Restored(state, int(where.name), meta["position"])


def _read_alone(handler: Any, path: epath.Path, args: Any) -> Any:
    # Without orbax's barrier after a read: a process that reads a damaged file never reaches it.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix="alone",
    )
    reader = ocp.Checkpointer(handler(multiprocessing_options=alone), multiprocessing_options=alone)
    return reader.restore(path, args=args)


def _loss_of(metrics: Any) -> float:
    return metrics["loss"]


def _check_room(folder: epath.Path, state: TrainState) -> None:
    if in_bucket(folder):
        return
    # Checked first, because after a write that fails half way, threads log errors for a while.
    # The extra tenth and the megabyte are for the index that is stored with the data.
    needed = int(1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(state))) + 2**20
    free = shutil.disk_usage(folder).free
    if free < needed:
        message = f"the disk is full ({needed:,} bytes needed, {free:,} free)"
        raise OSError(errno.ENOSPC, message, str(folder))


def _crc32(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _read_index(folder: epath.Path) -> None:
    # Checked first: if the index is damaged, the reads that orbax has started for every array fill
    # standard error with stack traces from tensorstore's threads.
    base = f"{folder}/" if in_bucket(folder) else f"file://{folder}/"
    index = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    if not index.list().result():
        raise ValueError(f"{folder}: the index is empty")


@contextmanager
def damage_to(where: epath.Path) -> Iterator[None]:
    """Raises DamagedCheckpoint in place of any exception of the block."""
    # A damaged file causes exceptions of almost any type: ValueError, KeyError, JSONDecodeError,
    # FileNotFoundError, or Exception itself.
    reason = None
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        _drop_unfinished_reads(error)
    # Each process reads its own part, but all must choose the same checkpoint.
    if distributed.any_process(reason is not None):
        reason = reason or "for another process"
        raise DamagedCheckpoint(f"{where} is damaged ({reason:.200})")


def _drop_unfinished_reads(error: Exception) -> None:
    # Orbax reads all arrays concurrently and raises the first error. Each of the other reads prints
    # the error again when it is garbage collected, so they are collected here, without output.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        traceback.clear_frames(error.__traceback__)
        gc.collect()
    finally:
        sys.unraisablehook = hook


def _say_errors_once() -> None:
    # Orbax logs every failure of its threads with a stack trace, although it raises it as well.
    logging.getLogger("absl").addFilter(_not_of_orbax)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname
