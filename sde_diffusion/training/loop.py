"""The training loop, from top to bottom."""

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from sde_diffusion import distributed, noise
from sde_diffusion.training import checkpoint
from sde_diffusion.training.finite import check_finite
from sde_diffusion.training.frozen import check_fingerprints, fingerprints
from sde_diffusion.training.preemption import preemption_notice
from sde_diffusion.training.recipe import Recipe, Run
from sde_diffusion.training.reporting import Report
from sde_diffusion.training.state import TrainState, init_state
from sde_diffusion.training.step import step_on_mesh


class Data(Protocol):
    """An endless iterator over batches (trees of arrays [B, ...]) that knows its position.

    Grain's iterators have these methods. The position is a JSON value. If a batch is a dict, its
    texts and its entry "index", the number of each record, stay on the host.
    """

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def get_state(self) -> Any: ...
    def set_state(self, position: Any) -> None: ...


class Every(NamedTuple):
    """`call(state, step)` is called after every `steps` steps.

    If it returns scalars by name, they are written to the run's records.
    """

    steps: int
    call: Callable[[TrainState, int], Mapping[str, float] | None]


class Outcome(NamedTuple):
    """The last state, and whether a signal ended the run before its last step."""

    state: TrainState
    preempted: bool


class Call(NamedTuple):
    """The batches of one call of the compiled step; the step and the data's position after it."""

    batches: Any
    end: int
    position: Any
    on_host: list[Any]


def train(
    recipe: Recipe,
    run: Run,
    data: Data,
    workdir: str | os.PathLike[str],
    *,
    every: Sequence[Every] = (),
    mesh: Mesh | None = None,
    start: Callable[[TrainState], TrainState] | None = None,
    progress: bool = True,
) -> Outcome:
    """Train to `run.steps` updates, from the newest checkpoint in `workdir` if there is one.

    The parameters after n updates depend only on the recipe, the seed, the data and n: a run that
    was stopped or killed and then resumed has the same bits as one that was not interrupted.

    The state and the batches are sharded over `mesh` (`distributed.make_mesh`), by default the
    first device alone; `data` yields this process's share of each batch. With several processes,
    each of them calls this function with a `workdir` that all can read and write. The first process
    writes the records. If any receives SIGTERM or Ctrl-C, all save the same step and return.

    `start(state)` maps the random initial state to the one that a new run begins with; see
    `init_from`. A run that resumes does not call it.

    Raises NonFiniteLoss: the last checkpoint then precedes the bad step; OSError if the disk is
    full; CheckpointMismatch if `workdir` holds a run of another model or with other frozen trees;
    DamagedCheckpoint if it has checkpoints but all are damaged; ValueError for unknown compiler
    options, and for data that ends.
    """
    init_key, step_key = jax.random.split(noise.key(run.seed))
    if mesh is None:
        mesh = distributed.make_mesh(devices=jax.local_devices()[:1])

    # ---- The step, and the frozen trees on their devices.
    train_step, abstract, frozen = step_on_mesh(mesh, recipe)
    frozen = jax.device_put(recipe.frozen, jax.tree.map(lambda leaf: leaf.sharding, frozen))
    marks = fingerprints(frozen)

    with ExitStack() as stack:
        notice = stack.enter_context(preemption_notice())
        checkpoints = stack.enter_context(
            checkpoint.open_checkpoints(
                workdir, keep=run.keep, keep_every=run.keep_every, keep_best=run.keep_best
            )
        )

        # ---- The state. A run resumes in this order:
        # 1. the state is read from the newest undamaged checkpoint, directly onto its devices;
        #    without a checkpoint it is initialized from the seed;
        if checkpoints.all_steps():
            state, step, position = checkpoint.restore(checkpoints, abstract)
            check_fingerprints(marks, position["frozen"])
            # 2. newer, damaged checkpoints are renamed, because their steps will be saved again;
            checkpoint.set_aside_newer(checkpoints, step)
            # 3. the data continues after the last batch that this state was trained on;
            data.set_state(position["data"])
            _say(progress, f"resuming at step {step} of {run.steps}")
        else:
            rule = partial(distributed.state_shardings, mesh)
            state = init_state(recipe, init_key, shardings=rule)
            state = state if start is None else start(state)
            step = 0
        if step >= run.steps:
            _say(progress, f"already at step {step} of {run.steps}: nothing to train")
            return Outcome(state, preempted=False)
        cuts = [run.steps_per_call, run.checkpoint_every, *(action.steps for action in every)]
        calls = _calls(data, step, run.steps, cuts=cuts, mesh=mesh)
        call = next(calls)
        # 4. records after the state's step are deleted.
        # No random state is stored: update n draws from fold_in(key, n).
        report = None
        if distributed.is_first_process():
            batch_size = jax.tree.leaves(call.batches)[0].shape[1]
            report = Report(workdir, recipe, run, step, batch_size=batch_size, progress=progress)
            stack.enter_context(closing(report))

        # ---- The loop.
        unchecked: list[tuple[Call, Mapping[str, jax.Array]]] = []
        losses: list[float] = []  # since the last checkpoint
        while True:
            # Asked before the step, so that the answer arrives while the step runs.
            noticed = distributed.any_process(notice.is_set())
            state, metrics = train_step(state, step_key, call.batches, frozen)
            step = call.end
            # While the devices work on this call, the next one's batches are prepared and the
            # metrics of the previous one are checked and reported.
            following = next(calls, None)
            losses += _reported(unchecked, report)
            unchecked.append((call, metrics))

            leaving = bool(noticed)
            saves = leaving or following is None or step % run.checkpoint_every == 0
            due = [action for action in every if step % action.steps == 0]
            if saves or due:
                # Nothing is saved before its losses are known to be finite, and recorded.
                losses += _reported(unchecked, report)
                if report is not None:
                    report.flush()
            if saves:
                position = {"data": call.position, "frozen": marks}
                checkpoint.save(checkpoints, step, state, position, float(np.mean(losses)))
                losses.clear()
            for action in due:
                found = action.call(state, step)
                if report is not None and found:
                    report.write(step, found)
            if leaving or following is None:
                checkpoint.finish(checkpoints)
                return Outcome(state, preempted=following is not None)
            call = following


def next_cut(step: int, cuts: Sequence[int]) -> int:
    """The first step after `step` that is a multiple of one of `cuts`.

    It depends on `step` alone, not on where the run began, so a resumed run makes the same calls.
    """
    return min(step - step % cut + cut for cut in cuts)


def _calls(
    data: Data, step: int, total_steps: int, *, cuts: Sequence[int], mesh: Mesh
) -> Iterator[Call]:
    while step < total_steps:
        end = min(next_cut(step, cuts), total_steps)
        drawn = list(itertools.islice(data, end - step))
        if len(drawn) < end - step:
            raise ValueError(f"data: it ended at step {step + len(drawn)} of {total_steps}")
        batches = jax.tree.map(lambda *leaves: np.stack(leaves), *map(for_devices, drawn))
        placed = distributed.place_batches(mesh, batches)
        yield Call(placed, end, data.get_state(), drawn)
        step = end


def for_devices(batch: Any) -> Any:
    """The batch without the entries that stay on the host: texts, and the records' numbers."""
    if not isinstance(batch, dict):
        return batch
    return {
        name: value
        for name, value in batch.items()
        if name != "index" and getattr(value, "dtype", np.dtype(float)).kind not in "USTO"
    }


def _reported(
    unchecked: list[tuple[Call, Mapping[str, jax.Array]]], report: Report | None
) -> list[float]:
    """Report the calls' metrics, empty the list, and return the losses.

    Raises NonFiniteLoss if a loss is not finite, after the steps before it are reported.
    """
    losses: list[float] = []
    for call, on_devices in unchecked:
        metrics = {name: np.asarray(values) for name, values in on_devices.items()}
        good, error = check_finite(metrics, call.end, call.on_host)
        if report is not None:
            last = call.end - len(metrics["loss"]) + good
            report.add(last, {name: values[:good] for name, values in metrics.items()})
        if error is not None:
            raise error
        losses += metrics["loss"].tolist()
    unchecked.clear()
    return losses


def _say(aloud: bool, line: str) -> None:
    if aloud and distributed.is_first_process():
        print(line, file=sys.stderr, flush=True)
