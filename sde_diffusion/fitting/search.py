"""fit(): the solver that takes noise to where a fine solution takes it, in few evaluations."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sde_diffusion import grids
from sde_diffusion.fitting import family, least_squares, race, starts
from sde_diffusion.fitting.starts import Starts
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers import DDIM, DEIS, DPMSolverPP2M, Solver, UniPC
from sde_diffusion.sdes import SDE, Array

# What the fit starts from: the best of these solvers on these grids, with and without a last
# evaluation that denoises,
SOLVERS: dict[str, Solver] = {
    "unipc": UniPC(),
    "deis": DEIS(),
    "dpmpp_2m": DPMSolverPP2M(),
    "ddim": DDIM(),
}
GRIDS = ("log_snr", "karras", "quadratic", "uniform", "cosine")
# and from these shares of the way in lambda on.
SKIPPED = (0.0, 0.15, 0.3)
# Steps of the solution that tells which starts are hard.
ROUGH = 24
# The share of the time that each of the preparations may take: the fine solutions of the starts
# held out, which standard solver is the best, which starts are hard, the fine solutions of those.
PREPARING = 1 / 8
# How many standard solvers race, and for which share of the time that is left.
RUNNERS = 12
RACING = 0.4


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
    model: Callable[..., Prediction],
    sde: SDE,
    shape: tuple[int, ...],
    *,
    nfe: int,
    solver: Solver | None = None,
    conditions: Callable[[np.ndarray], Mapping[str, Any]] | None = None,
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
    from so many by how far off a standard solver takes them, and weighted to stand for all. The
    fine solution is UniPC's in `fine_steps` steps.

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

        fitted = sde_diffusion.fit(key, model, sde, (8192, 2), nfe=8)
        sde_diffusion.sample(key, model, sde, (1000, 2), solver=fitted.solver)

    Related: Shaul et al. 2024 (Bespoke Non-Stationary Solvers), Frankel et al. 2025 (S4S).
    """
    clock = time.monotonic()
    if nfe < 2:
        raise ValueError(f"nfe must be at least 2, got {nfe}")
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape must be [N, *event], got {shape}")
    if pool is not None and pool < shape[0]:
        raise ValueError(f"pool must be at least the {shape[0]} starts of shape, got {pool}")
    make, candidates = _candidates(sde, nfe, solver)
    model = model if isinstance(model, Partial) else Partial(model)
    batch = min(batch, shape[0])
    num, others, many = (-(-n // batch) * batch for n in (shape[0], held_out, pool or shape[0]))
    drawn = starts.draw(key, sde, (many + others, *shape[1:]), conditions)

    def preparing() -> Callable[[], bool]:
        """Says whether there is time for more, from its first call on: what is before compiles."""
        calls: list[float] = []

        def going() -> bool:
            calls.append(time.monotonic() - clock)
            progress(calls[-1], math.nan)
            return calls[-1] - calls[0] < PREPARING * seconds

        return going

    held = drawn.rows(slice(many, None))
    held = starts.solved(model, sde, held, steps=fine_steps, size=batch, going=preparing())
    lost = ~np.isfinite(held.target.reshape(len(held.x), -1)).all(axis=-1)
    if lost.any():
        raise ValueError(
            f"model: the fine solution of its flow, {fine_steps} steps of UniPC from t_max to "
            f"t_min, is nan or inf for {lost.sum()} of {len(lost)} starts"
        )

    def errors(theta: Array, of: Starts) -> np.ndarray:
        return np.sqrt(least_squares.squares(make, model, sde, theta, of, size=batch))

    def error(theta: Array, of: Starts) -> float:
        return float(np.sqrt(np.mean(errors(theta, of) ** 2)))

    few, going = held.rows(slice(batch)), preparing()
    tried: dict[str, float] = {}
    for name, theta in candidates.items():
        tried[name] = _or_inf(error(theta, few))
        if not going():
            break
    order = sorted(tried, key=lambda name: tried[name])
    start, best = order[0], candidates[order[0]]
    start_error = least = error(best, held)
    if least == 0.0:  # data that are a single point: any solver ends there
        return Fit(family.settle(make(sde, best)), nfe, 0.0, start, 0.0, time.monotonic() - clock)

    trained = drawn.rows(slice(many))
    if many > num:
        rough = starts.solved(model, sde, trained, steps=ROUGH, size=batch, going=preparing())
        trained = starts.choose(key, rough, errors(best, rough), min(num, len(rough.x)))
    trained = starts.solved(model, sde, trained, steps=fine_steps, size=batch, going=preparing())
    num = len(trained.x)
    # First without the samples far off, on a quarter of the starts; last the mean square of all.
    quarter = trained.rows(slice(-(-num // (4 * batch)) * batch))
    phases = ((0.1, quarter, shares[0]), (0.3, trained, shares[1]), (30.0, trained, 1.0))

    def descent(phase: int, i: int, theta: Array) -> Iterator[Array]:
        far, part, _ = phases[phase]
        return least_squares.descend(
            jax.random.fold_in(key, len(phases) * i + phase),
            make,
            model,
            sde,
            theta,
            part,
            m=(far * start_error) ** 2,
            num=-(-min(jacobian, num) // batch) * batch,
            size=batch,
        )

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
        partial(descent, 0),
        reached,
        lambda: time.monotonic() - clock < began + RACING * (seconds - began),
    )

    def attempts() -> Iterator[Array]:
        for i, theta in enumerate(ahead):
            began = time.monotonic() - clock
            for phase, (_, _, share) in enumerate(phases):
                for better in descent(phase, RUNNERS + i, theta):
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


def _candidates(sde: SDE, nfe: int, solver: Solver | None) -> tuple[family.Make, dict[str, Array]]:
    """What theta stands for, and the thetas of standard solvers by name."""
    if solver is None:
        make = family.multistep(nfe)
        made: dict[str, Array] = {}
        for denoise_last, told in ((True, ""), (False, ", not denoised")):
            times = _standard_times(sde, nfe - denoise_last)
            stacked = jnp.stack(list(times.values()))
            for name, standard in SOLVERS.items():
                thetas = _thetas(standard, sde, stacked, denoise_last)
                named = (f"{name} on {grid}{told}" for grid in times)
                made |= dict(zip(named, thetas, strict=True))
        return make, made
    if solver.stochastic or solver.adaptive:
        raise ValueError(
            f"only a deterministic solver with steps of a grid can be fitted: {solver}"
        )
    steps, rest = divmod(nfe - 1, solver.evaluations)
    if rest or not steps:
        raise ValueError(
            f"{type(solver).__name__} takes {solver.evaluations} evaluations a step and one to "
            f"denoise, got nfe={nfe}"
        )
    times = _standard_times(sde, steps)
    return family.grid_of(solver), {
        f"its {name} grid": family.logits_of(sde, at) for name, at in times.items()
    }


def _standard_times(sde: SDE, steps: int) -> dict[str, Array]:
    """GRIDS by name, from t_max on and from where shares of the way in lambda are SKIPPED."""
    low, high = family.ends(sde)
    made = {}
    for share in SKIPPED:
        start = float(sde.t_of_log_snr(low + share * (high - low))) if share else sde.t_max
        later = dataclasses.replace(sde, t_max=start)
        for name in GRIDS:
            # Flow's at t = 1 are not finite.
            if jnp.isfinite(later.log_snr(start)) or name not in ("log_snr", "karras"):
                told = f"{name} from t = {start:.3g}" if share else name
                made[told] = grids.named(name, later, steps)
    return made


@partial(jax.jit, static_argnames=("solver", "denoise_last"))
def _thetas(solver: Solver, sde: SDE, times: Array, denoise_last: bool) -> Array:
    as_multistep = partial(family.as_multistep, solver, sde, denoise_last=denoise_last)
    return jax.vmap(as_multistep)(times)


def _or_inf(value: float) -> float:
    return value if np.isfinite(value) else np.inf
