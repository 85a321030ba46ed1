"""fit(): the solver that takes noise to where a fine solution takes it, in few evaluations."""

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

# One start is looked at for those held out for so many that are for those fitted to.
HELD = 4
# So many laps of the last phase without a gain of 1 % over the pool end it.
IDLE = 3
# How many standard solvers race, and for which share of the time that is left.
RUNNERS = 12
RACING = 0.4
# Up to this share of the standard solver's error a sample counts fully, in each of three phases.
FAR = (0.1, 0.3, 30.0)


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted solver, and what came of the fit.

    Errors are RMS distances, over starts that were not fitted to, of the samples to where a fine
    solution takes the same starts: `start_error` that of the best standard solver, `start`, with
    as many evaluations, and `error` that of `solver`, at most as large.
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
    """Fit a solver to a model, so that `nfe` evaluations end where a fine solution does.

    Without `solver`: times and coefficients of `Fitted`, from the best standard solvers on. With a
    deterministic one: its times alone, from its best standard grids on. These race, half of them
    going on after every few steps, for they lead to minima of very unlike errors.

    The starts are `shape` [N, *event], and `held_out` others, by which the result is chosen: it is
    never worse there than what the fit started from. With a `pool` of more than N, the N are drawn
    from so many, by how far off a standard solver takes them, and weighted to stand for all; those
    held out likewise, from a quarter as many. The last phase draws anew, by how far off the solver
    of the fit is. The fine solution is UniPC's in `fine_steps` steps.

    model(x, t), or model(x, t, **conditions(rows)) for the starts number `rows` [B]. The fit stops
    after `seconds`, compilation included, at the step that it is at; before that it depends on the
    key alone. Where the model is slow for so few seconds, it takes fewer starts and standard
    solvers, so that half of the time is left to fit in, but at least a `batch` and a step. Of three
    phases the first two, in which samples far off count little, end where they gain little more,
    and at these `shares` of the time at the latest. `jacobian` starts give the curvature, `batch`
    go through the model at a time. `progress` is called with the seconds since the start and the
    error so far, nan until there is one.

    Raises ValueError for nfe below 2, a stochastic solver, nfe that are not whole steps of it, a
    pool of fewer than N, or a model whose fine solution is not finite.

        fitted = sde_diffusion.fit(key, model, (8192, 2), nfe=8)
        sde_diffusion.sample(key, model, (1000, 2), solver=fitted.solver)

    Related: Shaul et al. 2024 (Bespoke Non-Stationary Solvers), Frankel et al. 2025 (S4S).
    """
    began = time.monotonic()
    _check(nfe, shape, pool)
    require_model(model)
    make, candidates = standard.candidates(model.sde, nfe, solver)
    batch = min(batch, shape[0])
    task = Task(key, model, make, fine_steps, jacobian, batch, began, seconds, progress)
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
    if error == 0.0:  # data that are a single point: any solver ends there
        return done(standing)
    trained, own = _prepared(task, key, base, drawn.rows(slice(many)), num, pooled)
    plan = Plan(trained, own, rest, len(trained.x), len(held.x), shares)
    return done(_search(task, plan, standing, [candidates[name] for name in order[:RUNNERS]]))


class Pool(NamedTuple):
    """Starts to choose from, with rough ends, and how far off the standard solver is there."""

    rough: Starts
    off: np.ndarray


class Plan(NamedTuple):
    """The starts that are fitted to, and the pools that they and those held out were chosen from.

    num, others: how many are fitted to, and held out.
    shares: of the time left, at which the first two phases end at the latest.
    """

    trained: Starts
    own: Pool | None
    rest: Pool | None
    num: int
    others: int
    shares: tuple[float, float]


class Standing(NamedTuple):
    """The best solver so far, by its error on the starts held out, beside the standard one."""

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
    """The names of the standard solvers that there is time to try, the best first."""
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
    """Starts with fine ends, as many as there is time for; and their pool, if they are chosen."""
    pool = None
    if pooled:
        rough = task.roughly(of)
        pool = Pool(rough, task.errors(base, rough))
        of = _chosen(key, pool, num)
    return task.finely(of, task.preparing()), pool


def _chosen(key: Array, pool: Pool, num: int, *off: np.ndarray) -> Starts:
    """`num` of a pool, by how far off the start is and others are; their ends are rough."""
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
    """(what is the best after theta, the error of theta on the starts held out)."""
    error = task.error(theta, standing.held)
    if error < standing.error:
        standing = standing._replace(best=theta, error=error)
    task.progress(task.spent(), standing.error)
    return standing, error


def _phase(
    task: Task, plan: Plan, phase: int, number: int, theta: Array, start_error: float
) -> Iterator[Array]:
    """Ever better theta: a descent of the first, second or last phase, from its own key.

    The first leaves samples far off out of account, and has a quarter of the starts; the last
    takes the mean square of all. Near a border between two modes a start that is a little off ends
    far off. The better the solver, the nearer to the border: where a standard one is off tells
    little of where this one is, and so the last phase chooses starts anew from the pool.
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
    """Chooses the starts of a lap by how far off theta is; none after IDLE laps without a gain."""
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
    """Where there is a pool, other starts are held out: where theta and the best one are far off.

    What was the best on the old ones stays so, unless the standard solver is better on the new.
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
