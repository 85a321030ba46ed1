"""fit(): the solver that takes noise to where a fine solution takes it, in few evaluations."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from sde_diffusion.fitting import family, least_squares, race, standard, starts
from sde_diffusion.fitting.starts import Starts
from sde_diffusion.model import Model, require_model
from sde_diffusion.samplers import Solver
from sde_diffusion.sdes import Array

# Steps of the solution that tells which starts are hard.
ROUGH = 48
# The share of the time that each of the preparations may take: which standard solver is the best,
# and of the starts held out, and of those fitted to, which are hard, and the fine solutions.
PREPARING = 1 / 10
# One start is looked at for those held out for so many that are for those fitted to.
HELD = 4
# So many laps of the last phase without a gain of 1 % over the pool end it.
IDLE = 3
# How many standard solvers race, and for which share of the time that is left.
RUNNERS = 12
RACING = 0.4


class Pool(NamedTuple):
    """Starts to choose from, with rough ends, and how far off the standard solver is there."""

    rough: Starts
    off: np.ndarray


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
    clock = time.monotonic()
    if nfe < 2:
        raise ValueError(f"nfe must be at least 2, got {nfe}")
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape must be [N, *event], got {shape}")
    pool = shape[0] if pool is None else pool
    if pool < shape[0]:
        raise ValueError(f"pool must be at least the {shape[0]} starts of shape, got {pool}")
    require_model(model)
    sde = model.sde
    make, candidates = standard.candidates(sde, nfe, solver)
    batch = min(batch, shape[0])
    pooled = pool > shape[0]
    sizes = (shape[0], held_out, pool, max(held_out, pool // HELD) if pooled else held_out)
    num, others, many, more = (-(-n // batch) * batch for n in sizes)
    drawn = starts.draw(key, sde, (many + more, *shape[1:]), conditions)

    def preparing() -> Callable[[], bool]:
        """Says whether there is time for more, from its first call on: what is before compiles."""
        calls: list[float] = []

        def going() -> bool:
            calls.append(time.monotonic() - clock)
            progress(calls[-1], math.nan)
            return calls[-1] - calls[0] < PREPARING * seconds

        return going

    def finely(of: Starts, going: Callable[[], bool] = lambda: True) -> Starts:
        return starts.solved(model, of, steps=fine_steps, size=batch, going=going)

    def errors(theta: Array, of: Starts) -> np.ndarray:
        return np.sqrt(least_squares.squares(make, model, theta, of, size=batch))

    def error(theta: Array, of: Starts) -> float:
        return float(np.sqrt(np.mean(of.weight * errors(theta, of) ** 2)))

    few, going = finely(drawn.rows(slice(many, many + batch))), preparing()
    tried: dict[str, float] = {}
    for name, theta in candidates.items():
        tried[name] = _or_inf(error(theta, few))
        if not going():
            break
    order = sorted(tried, key=lambda name: tried[name])
    start, best = order[0], candidates[order[0]]

    def looked_at(of: Starts) -> Pool:
        """As many of them as there is time for, with rough ends, and the start's errors there."""
        rough = starts.solved(model, of, steps=ROUGH, size=batch, going=preparing())
        return Pool(rough, errors(candidates[start], rough))

    def chosen(key: Array, of: Pool, num: int, *off: np.ndarray) -> Starts:
        """`num` of a pool, by how far off the start is and others are; their ends are rough."""
        return starts.choose(key, of.rough, [of.off, *off], min(num, len(of.off)))

    held = drawn.rows(slice(many, None))
    if pooled:
        others_pool = looked_at(held)
        held = chosen(jax.random.fold_in(key, 1), others_pool, others)
    held = finely(held, preparing())
    others = len(held.x)
    lost = ~np.isfinite(held.target.reshape(len(held.x), -1)).all(axis=-1)
    if lost.any():
        raise ValueError(
            f"model: the fine solution of its flow, {fine_steps} steps of UniPC from t_max to "
            f"t_min, is nan or inf for {lost.sum()} of {len(lost)} starts"
        )
    start_error = least = error(best, held)
    if least == 0.0:  # data that are a single point: any solver ends there
        return Fit(family.settle(make(sde, best)), nfe, 0.0, start, 0.0, time.monotonic() - clock)

    trained = drawn.rows(slice(many))
    if pooled:
        own_pool = looked_at(trained)
        trained = chosen(key, own_pool, num)
    trained = finely(trained, preparing())
    num = len(trained.x)
    quarter = trained.rows(slice(-(-num // (4 * batch)) * batch))

    def descent(
        i: int, theta: Array, far: float, choose: Callable[[int, Array], Starts | None]
    ) -> Iterator[Array]:
        return least_squares.descend(
            jax.random.fold_in(key, i),
            make,
            model,
            theta,
            choose,
            m=(far * start_error) ** 2,
            num=-(-min(jacobian, num) // batch) * batch,
            size=batch,
        )

    # First without the samples far off, on a quarter of the starts; last the mean square of all.
    # Near a border between two modes a start that is a little off ends far off. The better the
    # solver, the nearer to the border: where a standard one is off tells little of where this one
    # is, and so the last phase chooses starts anew.
    def first(i: int, theta: Array) -> Iterator[Array]:
        return descent(i, theta, 0.1, lambda *_: quarter)

    def second(i: int, theta: Array) -> Iterator[Array]:
        return descent(i, theta, 0.3, lambda *_: trained)

    def last(i: int, theta: Array) -> Iterator[Array]:
        if not pooled:
            return descent(i, theta, 30.0, lambda *_: trained)
        at = jax.random.fold_in(key, i)
        came: list[float] = []

        def choose(lap: int, theta: Array) -> Starts | None:
            off = errors(theta, own_pool.rough)
            came.append(_or_inf(float(np.sqrt(np.mean(off**2)))))
            if min(came[-IDLE:]) > 0.99 * min(came[:-IDLE], default=math.inf):
                return None
            return finely(chosen(jax.random.fold_in(at, lap), own_pool, num, off))

        hold(at, theta)
        return descent(i, theta, 30.0, choose)

    def hold(at: Array, theta: Array) -> None:
        """Choose the starts held out anew; what was the best on the old ones stays so, or less."""
        nonlocal held, best, least, start_error
        off = (errors(of, others_pool.rough) for of in (theta, best))
        held = finely(chosen(at, others_pool, others, *off))
        start_error, least = error(candidates[start], held), _or_inf(error(best, held))
        if start_error < least:
            best, least = candidates[start], start_error

    def reached(theta: Array) -> float:
        """Its error on the starts held out; the least so far is kept."""
        nonlocal best, least
        came = _or_inf(error(theta, held))
        if came < least:
            best, least = theta, came
        progress(time.monotonic() - clock, least)
        return came

    began = time.monotonic() - clock
    ahead = race.race(
        [candidates[name] for name in order[:RUNNERS]],
        first,
        reached,
        lambda: time.monotonic() - clock < began + RACING * (seconds - began),
    )

    def attempts() -> Iterator[Array]:
        for i, theta in enumerate(ahead):
            began = time.monotonic() - clock
            phases = zip((*shares, 1.0), (first, second, last), strict=True)
            for number, (share, phase) in enumerate(phases, RUNNERS + 3 * i):
                for better in phase(number, theta):
                    theta = better
                    yield theta
                    if time.monotonic() - clock > began + share * (seconds - began):
                        break

    for theta in attempts():
        reached(theta)
        if time.monotonic() - clock > seconds:
            break
    found = family.settle(make(sde, best))
    return Fit(found, nfe, least, start, start_error, time.monotonic() - clock)


def _or_inf(value: float) -> float:
    return value if np.isfinite(value) else np.inf
