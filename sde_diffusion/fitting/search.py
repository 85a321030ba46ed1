"""fit(): finds a solver whose few evaluations end where a fine solution ends."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from sde_diffusion.fitting import family, least_squares, race, standard, starts
from sde_diffusion.fitting.starts import Starts
from sde_diffusion.fitting.task import Task
from sde_diffusion.model import Model, require_model
from sde_diffusion.samplers import Solver
from sde_diffusion.sdes import Array
from sde_diffusion.sdes.base import ends

# One validation start is screened for every HELD training starts.
HELD = 4
# The last phase ends after this many laps without a gain of 1 % over the pool.
IDLE = 3
# The number of standard solvers in the race, and its share of the remaining time.
RUNNERS = 12
RACING = 0.4
# In each of the three phases, errors above this multiple of the standard solver's count less.
FAR = (0.1, 0.3, 30.0)


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted solver and its error.

    Errors are RMS distances between samples and a fine solution from the same starts, over starts
    that were held out of the fit. `start_error` is the error of `start`, the best standard solver
    with as many evaluations; `error` is that of `solver`, which is at most as large.
    """

    solver: Solver
    nfe: int
    error: float
    start: str
    start_error: float
    seconds: float


def fit(
    key: Array,
    model: Model,
    shape: tuple[int, ...],
    *,
    nfe: int,
    solver: Solver | None = None,
    t_min: float | None = None,
    conditions: Callable[[np.ndarray], Any] | None = None,
    seconds: float = 60.0,
    pool: int | None = None,
    held_out: int = 4096,
    fine_steps: int = 128,
    jacobian: int = 512,
    batch: int = 256,
    shares: tuple[float, float] = (1.0, 1.0),
    progress: Callable[[float, float], None] = lambda seconds, error: None,
) -> Fit:
    """Fit a solver to a model, so that `nfe` evaluations end where a fine solution ends.

    Without `solver`, the times and coefficients of `Fitted` are fitted, starting from the best
    standard solvers. With a deterministic `solver`, only its times are fitted, starting from its
    best standard grids. Short fits from many starting points come first; the better half continues
    after every few steps, because the starting points lead to very different minima.

    Args:
      key: the key of the starts and of all random choices.
      model: the `Model` that the solver is fitted to.
      shape: [N, *event]; the solver is fitted to N starts.
      nfe: the number of model evaluations of a sample.
      solver: a deterministic solver whose times are fitted; by default all of `Fitted`.
      t_min: the time at which samples end, by default that of the SDE.
      conditions: conditions(rows) returns the model's `cond` for the starts number rows [B].
      seconds: the fit ends at the first step after this time, which includes compilation. Until
        then it depends on the key only. If the model is slow, fewer starts and standard solvers are
        used, at least one batch and one step, so that half of the time is left for the fit.
      pool: the number of starts from which the N are drawn, N by default. They are drawn by the
        error of a standard solver and weighted accordingly. The starts that are held out are drawn
        in the same way from a quarter of this number. The last phase draws again, by the error of
        the fitted solver.
      held_out: the number of other starts, by which the result is chosen. There it is never worse
        than the best standard solver.
      fine_steps: the number of UniPC's steps in the fine solution.
      jacobian: the number of starts from which the curvature is computed.
      batch: the number of starts to which the model is applied at a time.
      shares: the latest ends of the first two of three phases, as shares of the time. They give
        little weight to large errors, and end earlier when they gain little.
      progress: called with the seconds since the start, and the error so far or nan.

    Raises ValueError for nfe below 2, a stochastic solver, an nfe that does not fit whole steps of
    the solver, a t_min that is not in the SDE's range, a pool of fewer than N, or a model whose
    fine solution is not finite.

        fitted = sde_diffusion.fit(key, model, (8192, 2), nfe=8)
        sde_diffusion.sample(key, model, (1000, 2), solver=fitted.solver)

    Related: Shaul et al. 2024 (Bespoke Non-Stationary Solvers), Frankel et al. 2025 (S4S).
    """
    began = time.monotonic()
    _check(nfe, shape, pool)
    require_model(model)
    ends(model.sde, t_min, None)
    make, candidates = standard.candidates(model.sde, nfe, solver, t_min)
    batch = min(batch, shape[0])
    task = Task(key, model, make, t_min, fine_steps, jacobian, batch, began, seconds, progress)
    pool = shape[0] if pool is None else pool
    pooled = pool > shape[0]
    sizes = (shape[0], held_out, pool, max(held_out, pool // HELD) if pooled else held_out)
    num, others, many, more = (task.whole(n) for n in sizes)
    drawn = starts.draw(key, model.sde, (many + more, *shape[1:]), conditions)

    order = _ranked(task, candidates, drawn.rows(slice(many, many + batch)))
    name, base = order[0], candidates[order[0]]

    def done(found: Standing) -> Fit:
        settled = family.settle(make(model.sde, found.best))
        return Fit(settled, nfe, found.error, name, found.start_error, task.spent())

    held, rest = _prepared(
        task, jax.random.fold_in(key, 1), base, drawn.rows(slice(many, None)), others, pooled
    )
    _require_finite(held, fine_steps)
    error = task.error(base, held)
    standing = Standing(held, base, error, base, error)
    if error == 0.0:  # the data is a single point, where any solver ends
        return done(standing)
    trained, own = _prepared(task, key, base, drawn.rows(slice(many)), num, pooled)
    plan = Plan(trained, own, rest, len(trained.x), len(held.x), shares)
    return done(_search(task, plan, standing, [candidates[name] for name in order[:RUNNERS]]))


class Pool(NamedTuple):
    """Starts to choose from, with rough targets, and the standard solver's error for each."""

    rough: Starts
    off: np.ndarray


class Plan(NamedTuple):
    """The starts that the solver is fitted to, and the pools from which starts are chosen.

    own, rest: the pools of the starts that are fitted to, and of those that are held out.
    num, others: the numbers of these starts.
    shares: of the time left, at which the first two phases end at the latest.
    """

    trained: Starts
    own: Pool | None
    rest: Pool | None
    num: int
    others: int
    shares: tuple[float, float]


class Standing(NamedTuple):
    """The best solver so far, by its error on the starts held out, and the standard solver."""

    held: Starts
    best: Array
    error: float
    start: Array
    start_error: float


def _check(nfe: int, shape: tuple[int, ...], pool: int | None) -> None:
    if nfe < 2:
        raise ValueError(f"nfe must be at least 2, got {nfe}")
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape must be [N, *event], got {shape}")
    if pool is not None and pool < shape[0]:
        raise ValueError(f"pool must be at least the {shape[0]} starts of shape, got {pool}")


def _ranked(task: Task, candidates: Mapping[str, Array], few: Starts) -> list[str]:
    """The names of the standard solvers, best first, as many as time allows to try."""
    few, going = task.finely(few), task.preparing()
    tried: dict[str, float] = {}
    for name, theta in candidates.items():
        tried[name] = task.error(theta, few)
        if not going():
            break
    return sorted(tried, key=lambda name: tried[name])


def _prepared(
    task: Task, key: Array, base: Array, of: Starts, num: int, pooled: bool
) -> tuple[Starts, Pool | None]:
    """Starts with fine targets, as many as time allows, and their pool if they are chosen."""
    pool = None
    if pooled:
        rough = task.roughly(of)
        pool = Pool(rough, task.errors(base, rough))
        of = _chosen(key, pool, num)
    return task.finely(of, task.preparing()), pool


def _chosen(key: Array, pool: Pool, num: int, *off: np.ndarray) -> Starts:
    """`num` starts of a pool, chosen by the standard solver's error and by other errors `off`."""
    return starts.choose(key, pool.rough, [pool.off, *off], min(num, len(pool.off)))


def _require_finite(held: Starts, fine_steps: int) -> None:
    lost = ~np.isfinite(held.target.reshape(len(held.x), -1)).all(axis=-1)
    if lost.any():
        raise ValueError(
            f"model: the fine solution of its flow, {fine_steps} steps of UniPC from t_max to "
            f"t_min, is nan or inf for {lost.sum()} of {len(lost)} starts"
        )


def _search(task: Task, plan: Plan, standing: Standing, runners: list[Array]) -> Standing:
    """Race the standard solvers, and fit the finalists in three phases while there is time."""
    began, start_error = task.spent(), standing.start_error
    standing, ahead = race.race(
        runners,
        lambda i, theta: _phase(task, plan, 0, i, theta, start_error),
        lambda standing, theta: _reached(task, standing, theta),
        standing,
        lambda: task.spent() < began + RACING * (task.seconds - began),
    )
    for i, theta in enumerate(ahead):
        began = task.spent()
        for phase, share in enumerate((*plan.shares, 1.0)):
            number = RUNNERS + 3 * i + phase
            if phase == 2:
                standing = _held_anew(task, plan, standing, number, theta)
            for better in _phase(task, plan, phase, number, theta, standing.start_error):
                theta = better
                standing, _ = _reached(task, standing, theta)
                if task.spent() > task.seconds:
                    return standing
                if task.spent() > began + share * (task.seconds - began):
                    break
    return standing


def _reached(task: Task, standing: Standing, theta: Array) -> tuple[Standing, float]:
    """(the standing after theta is measured, the error of theta on the starts held out)."""
    error = task.error(theta, standing.held)
    if error < standing.error:
        standing = standing._replace(best=theta, error=error)
    task.progress(task.spent(), standing.error)
    return standing, error


def _phase(
    task: Task, plan: Plan, phase: int, number: int, theta: Array, start_error: float
) -> Iterator[Array]:
    """The descent of phase 0, 1 or 2, which yields theta after each step; `number` gives its key.

    Phase 0 gives large errors little weight, and uses a quarter of the starts; phase 2 minimizes
    the mean square over all starts. A start close to the border between two modes may end in the
    wrong mode. The better the solver, the closer to the border are the starts for which this
    happens. The errors of a standard solver therefore say little about those of a good one, and
    phase 2 chooses its starts again from the pool.
    """
    key = jax.random.fold_in(task.key, number)
    choose: Callable[[int, Array], Starts | None]
    if phase == 2 and plan.own is not None:
        choose = _choosing(task, plan.own, plan.num, key)
    else:
        whole = plan.trained
        quarter = whole.rows(slice(task.whole(-(-plan.num // 4)))) if phase == 0 else whole

        def choose(lap: int, theta: Array) -> Starts:
            return quarter

    return least_squares.descend(
        key,
        task.make,
        task.model,
        theta,
        choose,
        m=(FAR[phase] * start_error) ** 2,
        num=task.whole(min(task.jacobian, plan.num)),
        size=task.batch,
    )


def _choosing(
    task: Task, pool: Pool, num: int, key: Array
) -> Callable[[int, Array], Starts | None]:
    """Chooses the starts of a lap by the errors of theta; None after IDLE laps without a gain."""
    came: list[float] = []

    def choose(lap: int, theta: Array) -> Starts | None:
        off = task.errors(theta, pool.rough)
        mean = float(np.sqrt(np.mean(off**2)))
        came.append(mean if np.isfinite(mean) else math.inf)
        if min(came[-IDLE:]) > 0.99 * min(came[:-IDLE], default=math.inf):
            return None
        return task.finely(_chosen(jax.random.fold_in(key, lap), pool, num, off))

    return choose


def _held_anew(task: Task, plan: Plan, standing: Standing, number: int, theta: Array) -> Standing:
    """If there is a pool, holds out other starts, chosen by the errors of theta and of the best.

    The best solver stays the same, unless the standard solver is better on the new starts.
    """
    if plan.rest is None:
        return standing
    off = (task.errors(of, plan.rest.rough) for of in (theta, standing.best))
    key = jax.random.fold_in(task.key, number)
    held = task.finely(_chosen(key, plan.rest, plan.others, *off))
    start_error, error = task.error(standing.start, held), task.error(standing.best, held)
    best = standing.best
    if start_error < error:
        best, error = standing.start, start_error
    return Standing(held, best, error, standing.start, start_error)
