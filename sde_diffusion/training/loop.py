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
import optax
from jax.sharding import Mesh

from sde_diffusion import distributed
from sde_diffusion.training import checkpoint
from sde_diffusion.training.compiler_options import check_compiler_options
from sde_diffusion.training.preemption import preemption_notice
from sde_diffusion.training.reporting import Report
from sde_diffusion.training.state import InitFn, TrainState, abstract_state, init_state
from sde_diffusion.training.step import LossFn, StepFn, StepMetrics, make_step


class NonFiniteLoss(FloatingPointError):
    """The loss or its gradient at `step` is not a finite number; that step's state is not saved."""

    def __init__(self, step: int, loss: float, grad_norm: float):
        super().__init__(f"step {step}: the loss is {loss} and its gradient's norm {grad_norm}")
        self.step = step


class Data(Protocol):
    """An endless iterator over batches (trees of arrays [B, ...]) that knows its position.

    grain's iterators are such. The position is a JSON value.
    """

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def get_state(self) -> Any: ...
    def set_state(self, position: Any) -> None: ...


class Outcome(NamedTuple):
    """The last state, and whether SIGTERM ended the run before its last step."""

    state: TrainState
    preempted: bool


class Call(NamedTuple):
    """What one call of the compiled step takes, and the step and position of the data after it."""

    batches: Any
    end: int
    position: Any


def train(
    *,
    workdir: str | os.PathLike[str],
    init_params: InitFn,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    data: Data,
    seed: int,
    total_steps: int,
    ema_rates: Sequence[float] = (0.999,),
    accumulate: int = 1,
    elementwise: bool = False,
    gather_dtype: str = "float32",
    compiler_options: Mapping[str, str] | None = None,
    steps_per_call: int = 1,
    checkpoint_every: int = 1000,
    keep: int = 3,
    keep_every: int | None = None,
    keep_best: int | None = None,
    log_every: int = 100,
    sample_every: int = 1000,
    sample_fn: Callable[[TrainState, int], None] | None = None,
    learning_rate: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
    progress: bool = True,
) -> Outcome:
    """Trains to `total_steps` updates, from the newest checkpoint in `workdir` if there is one.

    `init_params(key)` gives the parameters and `loss_fn(params, key, batch)` a loss [B] a sample;
    `accumulate`, `elementwise`, `gather_dtype` and `compiler_options` are those of `make_step`. The
    parameters after n updates are a function of the seed, the data and n alone: stopping, killing
    and resuming the run leave them the same bit for bit.

    Of the checkpoints the last `keep` are kept, those whose step is a multiple of `keep_every`, and
    the `keep_best` with the lowest mean loss since the one before.
    `sample_fn(state, step)` is called every `sample_every` steps. `learning_rate(n)` is written
    into the records. The state and the batches are spread over `mesh` (`distributed.make_mesh`), by
    default the first device alone; of each batch `data` gives this process's share.

    With several processes all of them call this, on a `workdir` that all see; the first one writes
    the records, and SIGTERM to any of them makes all save the same step and return.

    Raises NonFiniteLoss, after which the last checkpoint is the last good one; OSError when the
    disk is full; CheckpointMismatch when `workdir` is of another model; DamagedCheckpoint when it
    has checkpoints and none of them is whole; ValueError for a number out of its range and
    for compiler_options that the compiler does not take.
    """
    for name, value in {
        "total_steps": total_steps,
        "steps_per_call": steps_per_call,
        "checkpoint_every": checkpoint_every,
        "log_every": log_every,
        "sample_every": sample_every,
    }.items():
        if value < 1:
            raise ValueError(f"{name}: {value} is not at least 1")
    init_key, step_key = jax.random.split(jax.random.key(seed))
    if mesh is None:
        mesh = distributed.make_mesh(devices=jax.local_devices()[:1])
    train_step, abstract = step_on_mesh(
        mesh,
        init_params=init_params,
        loss_fn=loss_fn,
        optimizer=optimizer,
        ema_rates=ema_rates,
        accumulate=accumulate,
        elementwise=elementwise,
        gather_dtype=gather_dtype,
        compiler_options=compiler_options,
    )

    with ExitStack() as stack:
        notice = stack.enter_context(preemption_notice())
        checkpoints = stack.enter_context(
            checkpoint.open_checkpoints(
                workdir, keep=keep, keep_every=keep_every, keep_best=keep_best
            )
        )
        # A run resumes in this order:
        # 1. the newest checkpoint that is whole gives the state, straight onto its devices;
        #    without a checkpoint the seed gives the parameters;
        if checkpoints.all_steps():
            state, step, position = checkpoint.restore(checkpoints, abstract)
            # 2. newer ones, which are damaged, make room for what will be written again;
            checkpoint.set_aside_newer(checkpoints, step)
            # 3. the data goes on behind the last batch that this state has seen;
            data.set_state(position)
            _say(progress, f"resuming at step {step} of {total_steps}")
        else:
            rule = partial(distributed.state_shardings, mesh)
            state = init_state(init_params, optimizer, ema_rates, init_key, shardings=rule)
            step = 0
        if step >= total_steps:
            _say(progress, f"already at step {step} of {total_steps}: nothing to train")
            return Outcome(state, preempted=False)
        calls = _calls(
            data,
            step,
            total_steps,
            cuts=[steps_per_call, checkpoint_every, *([sample_every] if sample_fn else [])],
            mesh=mesh,
        )
        call = next(calls)
        # 4. the records past the state's step are dropped.
        # There is no random state: update n draws from fold_in(key, n).
        report = None
        if distributed.is_first_process():
            report = Report(
                workdir,
                step=step,
                total_steps=total_steps,
                batch_size=jax.tree.leaves(call.batches)[0].shape[1],
                log_every=log_every,
                learning_rate=learning_rate,
                progress=progress,
            )
            stack.enter_context(closing(report))

        unchecked: list[tuple[int, StepMetrics]] = []
        losses: list[float] = []  # since the last checkpoint
        while True:
            # Before the step, so that the answer is there before the step's end.
            noticed = distributed.any_process(notice.is_set())
            state, metrics = train_step(state, step_key, call.batches)
            step = call.end
            # While the devices work on this call, its successor's batches are made ready and the
            # losses of its predecessor looked at.
            following = next(calls, None)
            losses += _check_finite(unchecked, report)
            unchecked.append((step, metrics))

            leaving = bool(noticed)
            saves = leaving or following is None or step % checkpoint_every == 0
            draws = sample_fn is not None and step % sample_every == 0
            if saves or draws:
                # Nothing is saved before its losses are known to be finite, and written down.
                losses += _check_finite(unchecked, report)
                if report is not None:
                    report.flush()
            if saves:
                checkpoint.save(checkpoints, step, state, call.position, float(np.mean(losses)))
                losses.clear()
            if sample_fn is not None and draws:
                sample_fn(state, step)
            if leaving or following is None:
                checkpoint.finish(checkpoints)
                return Outcome(state, preempted=following is not None)
            call = following


def step_on_mesh(
    mesh: Mesh,
    *,
    init_params: InitFn,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    ema_rates: Sequence[float],
    accumulate: int = 1,
    elementwise: bool = False,
    gather_dtype: str = "float32",
    compiler_options: Mapping[str, str] | None = None,
) -> tuple[StepFn, TrainState]:
    """The step that `train` makes on the mesh, and the shapes and shardings of its state.

    Allocates nothing, so the devices may be ones that are not here: what is compiled for them ahead
    of time is what `train` will run. Raises ValueError for compiler_options that their compiler
    does not take.
    """
    check_compiler_options(compiler_options or {}, mesh.devices.flat[0])
    rule = partial(distributed.state_shardings, mesh)
    abstract = abstract_state(init_params, optimizer, ema_rates, shardings=rule)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    step = make_step(
        loss_fn,
        optimizer,
        ema_rates,
        accumulate=accumulate,
        elementwise=elementwise,
        shardings=shardings,
        gather_dtype=gather_dtype,
        compiler_options=compiler_options,
    )
    return step, abstract


def next_cut(step: int, cuts: Sequence[int]) -> int:
    """The first step after `step` that is a multiple of one of `cuts`.

    It depends on `step` alone, not on where the run began: a resumed run makes the same calls.
    """
    return min(step - step % cut + cut for cut in cuts)


def _calls(
    data: Data,
    step: int,
    total_steps: int,
    *,
    cuts: Sequence[int],
    mesh: Mesh,
) -> Iterator[Call]:
    while step < total_steps:
        end = min(next_cut(step, cuts), total_steps)
        drawn = list(itertools.islice(data, end - step))
        if len(drawn) < end - step:
            raise ValueError(f"data: it ended at step {step + len(drawn)} of {total_steps}")
        batches = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
        yield Call(distributed.place_batches(mesh, batches), end, data.get_state())
        step = end


def _check_finite(unchecked: list[tuple[int, StepMetrics]], report: Report | None) -> list[float]:
    """Reports the steps, empties the list and gives their losses; NonFiniteLoss for a bad one."""
    losses: list[float] = []
    for end, metrics in unchecked:
        loss, grad_norm = np.asarray(metrics.loss), np.asarray(metrics.grad_norm)
        # The square of a gradient overflows before its second moment in Adam does, so a finite norm
        # also means that the optimizer's state stays finite.
        bad = ~(np.isfinite(loss) & np.isfinite(grad_norm))
        good = int(np.argmax(bad)) if bad.any() else len(loss)
        first = end - len(loss) + 1
        if report is not None:
            report.add(first + good - 1, loss[:good], grad_norm[:good])
        if good < len(loss):
            raise NonFiniteLoss(first + good, float(loss[good]), float(grad_norm[good]))
        losses += loss.tolist()
    unchecked.clear()
    return losses


def _say(aloud: bool, line: str) -> None:
    if aloud and distributed.is_first_process():
        print(line, file=sys.stderr, flush=True)
