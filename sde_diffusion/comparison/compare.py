"""compare(): every candidate on a problem, a row for each."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.comparison import measure, problems, store
from sde_diffusion.comparison.candidates import Candidate, Grid, candidates
from sde_diffusion.comparison.problems import Problem
from sde_diffusion.comparison.store import Row
from sde_diffusion.model import Model
from sde_diffusion.samplers import Solver
from sde_diffusion.sdes import SDE, VP
from sde_diffusion.selection import choose

METRICS = (
    "sliced_wasserstein",
    "wasserstein2",
    "energy_distance",
    "mmd",
    "kl",
    "kl_pushforward",
    "mean_error",
    "covariance_error",
)
# Dimensions up to which the entropy of samples can be estimated from their neighbours.
KL_DIMENSIONS = 3
# Dimensions up to which kl_pushforward is measured unasked: it costs as much as so many samplers.
PUSHFORWARD_DIMENSIONS = 64
# Samples of the data by which a problem is known again.
PROBES = 8
# Pairs of sets of the data of which a floor is the mean.
FLOORS = 4
# What the error is taken apart by: cheap, in the data's units, and in any number of dimensions.
PART_METRIC = "sliced_wasserstein"
Progress = Callable[[Sequence[Candidate]], Iterable[Candidate]]


def compare(
    problem: str | Problem,
    solvers: str | Sequence[str | Solver] = "all",
    nfe: Sequence[int] = (5, 10, 20, 50, 100),
    *,
    sde: SDE | None = None,
    grids: Sequence[str | Grid] = ("log_snr",),
    denoise_last: Sequence[bool] = (True,),
    metrics: Sequence[str] | None = None,
    num: int = 1000,
    seed: int = 0,
    batch: int = 1000,
    out: str | Path | None = None,
    progress: Progress = lambda todo: todo,
) -> list[Row]:
    """Rows, one for each solver, grid, use of the last evaluation and budget of them.

    A row has errors, time and memory.

    `problem` is a name of `comparison.problems.PROBLEMS`, under `sde` (VP unless given), or a
    `Problem`. `solvers` are names, as "heun" or "ddim(eta=0.5)", or values, and `grids`
    names, as "karras" or "karras(rho=3)", or functions (sde, steps) -> times; `nfe` counts every
    evaluation, the last one that denoises included; with False among `denoise_last` there are rows
    without that one, and with a step more where it pays for one. `metrics` are all of METRICS
    unless given, of the two KL divergences at most one, where the density of the data is known:
    `kl` in up to three dimensions, from the samples alone, and `kl_pushforward` in up to 64, for
    solvers that are deterministic and make the steps of the grid, by the density of what they make.
    That one is a lower bound where `kl_pushforward_folded`, the share of samples whose sign (see
    `pushforward`) is the rarer one, is above zero. A metric compares `num` samples with as many of
    the data, with a 95 % interval (`_low`, `_high`) and its floor (`_floor`), its value between two
    sets of `floor_num` of the data that share none. `rms` is, for a deterministic solver, the
    distance of each sample to where the flow takes the same start. `discretization`, `truncation`
    and `score_error` are the parts of the error, by PART_METRIC. A row whose samples are not all
    finite is kept, with nan.

    With `out`, a folder: results.json, results.csv, pictures and report.html are written there,
    and rows that it already holds, of the same problem, are not measured again.

    Raises ValueError for an unknown problem, solver, grid or metric, a solver that does not fit
    the SDE or the budget, or fewer than 16 samples, before anything is measured, and for a model
    whose fine solution is not finite.
    """
    from sde_diffusion.metrics import distances

    if num < distances.LEAST:
        raise ValueError(f"num must be at least {distances.LEAST}, got {num}")
    if isinstance(problem, str):
        problem = problems.named(problem, sde or VP())
    elif sde is not None:
        raise ValueError("sde: the model of a Problem has its own")
    if metrics is None:
        metrics = _usual(problem)
    measures = _measures(problem, (*metrics, PART_METRIC))
    todo = candidates(solvers, nfe, grids, problem.sde, denoise_last)
    folder = None if out is None else Path(out)
    done = {row["id"]: row for row in store.load(folder / "results.json")} if folder else {}
    common = {
        "problem": problem.name,
        "sde": repr(problem.sde),
        "num": num,
        "seed": seed,
        "device": jax.devices()[0].device_kind,
        "problem_id": _fingerprint(problem),
        "floor_num": _floor_num(problem, num),
    }
    identities = [store.identity({**_told(c), **common, "metrics": sorted(metrics)}) for c in todo]
    left = {c: name for c, name in zip(todo, identities, strict=True) if name not in done}
    if left:
        truth = _truth(problem, measures, num, seed, batch)
        for candidate in progress(list(left)):
            row = _row(problem, candidate, truth, measures, metrics, num, seed, batch)
            done[left[candidate]] = {"id": left[candidate], **common, **row}
            if folder:
                store.save(folder, list(done.values()))
    rows = [done[name] for name in identities]
    if folder:
        from sde_diffusion.comparison import report

        # With those that the folder has of the same problem, measured in the same way.
        same = [row for row in done.values() if {**row, **common} == row]
        shown = [row for row in same if all(metric in row for metric in metrics)]
        report.write(folder, shown, metrics, PART_METRIC)
    return rows


def _fingerprint(problem: Problem) -> str:
    """Of some data and what the model gives for them: a name may stand for another model."""
    x = jnp.asarray(problem.data(jax.random.key(0), PROBES))
    cond = problem.conditions(np.arange(PROBES)) if problem.conditions else None
    middle = jnp.asarray(0.5 * (problem.sde.t_min + problem.sde.t_max))
    x0 = _x0(problem.model, x, middle, cond)
    return hashlib.sha256(np.asarray(x).tobytes() + np.asarray(x0).tobytes()).hexdigest()[:16]


@jax.jit
def _x0(model: Model, x: jax.Array, t: jax.Array, cond: Any) -> jax.Array:
    return model(x, t, cond).x0


class _Truth(NamedTuple):
    """What rows are held against; all arrays [num, *event]."""

    data: np.ndarray
    reference: np.ndarray
    common: dict[str, Any]


def _usual(problem: Problem) -> list[str]:
    """The metrics that are measured where none are given."""
    size = math.prod(problem.event)
    fits = {
        "kl": size <= KL_DIMENSIONS,
        "kl_pushforward": KL_DIMENSIONS < size <= PUSHFORWARD_DIMENSIONS,
    }
    usual = [name for name in METRICS if fits.get(name, True)]
    return usual if _has_density(problem) else [name for name in usual if name not in fits]


def _has_density(problem: Problem) -> bool:
    """Whether the data has one that is known: that of single points is not finite there."""
    if problem.exact is None:
        return False
    return bool(jnp.all(jnp.isfinite(problem.log_prob(problem.data(jax.random.key(0), PROBES)))))


def _measures(problem: Problem, names: Sequence[str]) -> dict[str, Any]:
    """f(x, y, seed) for each metric of two sets; `kl` takes x alone, and the exact density."""
    from sde_diffusion.metrics import distances

    log_prob = jax.jit(problem.log_prob)

    def kl(x: Any, y: Any, seed: int) -> float:
        return distances.kl(x, np.asarray(log_prob(x)))

    known = {**distances.DISTANCES, "kl": kl, "kl_pushforward": None}
    chosen = {name: choose("metric", name, known) for name in dict.fromkeys(names)}
    if "kl" in chosen and math.prod(problem.event) > KL_DIMENSIONS:
        raise ValueError(
            f"metric 'kl' is of samples in up to {KL_DIMENSIONS} dimensions, of which "
            f"{problem.name!r} has {math.prod(problem.event)}: kl_pushforward is of any number"
        )
    for name in {"kl", "kl_pushforward"} & set(chosen):
        if not _has_density(problem):
            raise ValueError(f"metric {name!r} needs an exact density, {problem.name!r} has none")
    return {name: f for name, f in chosen.items() if f is not None}


def _truth(problem: Problem, measures: dict[str, Any], num: int, seed: int, batch: int) -> _Truth:
    from sde_diffusion.metrics import distances

    key = jax.random.key(seed)
    # Draws of the data, apart from the noise of the samples, which key itself decides.
    draws = jax.random.split(jax.random.fold_in(key, 1), 1 + FLOORS)
    data = problem.data(draws[0], num)
    reference = measure.fine(problem, key, num, batch)
    _require_finite(problem, reference)
    coarser = measure.fine(problem, key, num, batch, steps=measure.FINE // 2)
    own = measure.own_starts(problem, key, jnp.asarray(data))
    part = measures[PART_METRIC]
    if problem.exact is None:
        ends = measure.fine(problem, key, num, batch, start=own)
        truncation, score_error = part(reference, ends, seed), part(ends, data, seed)
    else:
        exact = measure.fine_exact(problem, key, num, batch)
        ends = measure.fine_exact(problem, key, num, batch, own)
        truncation, score_error = part(exact, ends, seed), part(reference, exact, seed)
    # Sets that share rows are nearer than two of one distribution: each pair is one draw in halves.
    pair = 2 * _floor_num(problem, num)
    drawn = [np.asarray(problem.data(draw, pair)) for draw in draws[1:]]
    sets = [half for rows in drawn for half in np.split(rows, 2)]
    floors = {
        f"{name}_floor": distances.floor(f, sets.__getitem__, seed, FLOORS)[0]
        for name, f in measures.items()
    }
    return _Truth(
        np.asarray(data),
        reference,
        {
            "reference_error": distances.rms(coarser, reference),
            "fine_steps": measure.FINE,
            "truncation": truncation,
            "score_error": score_error,
            **floors,
        },
    )


def _floor_num(problem: Problem, num: int) -> int:
    return num if problem.size is None else min(num, problem.size // 2)


def _require_finite(problem: Problem, reference: np.ndarray) -> None:
    finite = _finite(reference)
    if not finite.all():
        raise ValueError(
            f"problem {problem.name!r}: the fine solution of its flow, {measure.FINE} steps of RK4 "
            f"from t_max to t_min, is nan or inf for {np.sum(~finite)} of {len(finite)} starts"
        )


def _finite(x: np.ndarray) -> np.ndarray:
    """Whether each sample of [N, *event] is, [N]."""
    return np.isfinite(x.reshape(len(x), -1)).all(axis=-1)


def _told(candidate: Candidate) -> dict[str, Any]:
    # Only said where it is not the usual, so that rows from before it could be are known again.
    last = {} if candidate.denoise_last else {"denoise_last": False}
    return last | {
        "solver": candidate.label,
        "value": repr(candidate.solver),
        "grid": candidate.grid_name,
        "times": list(candidate.grid),
        "budget": candidate.budget,
    }


def _row(
    problem: Problem,
    candidate: Candidate,
    truth: _Truth,
    measures: dict[str, Any],
    metrics: Sequence[str],
    num: int,
    seed: int,
    batch: int,
) -> Row:
    from sde_diffusion.metrics import distances

    made = measure.run(problem, candidate, jax.random.key(seed), num, batch)
    finite = _finite(made.x)
    solver = candidate.solver
    row: Row = {
        "solver": candidate.label,
        "grid": candidate.grid_name,
        "denoise_last": candidate.denoise_last,
        "budget": candidate.budget,
        "steps": candidate.steps,
        "nfe": float(np.mean(made.nfe)),
        "order": solver.order,
        "stochastic": solver.stochastic,
        "finite": float(np.mean(finite)),
        "seconds": made.seconds,
        "compile_seconds": made.compile_seconds,
        "memory_bytes": made.memory_bytes,
        "rms": np.nan,
        "rms_low": np.nan,
        "rms_high": np.nan,
        "discretization": np.nan,
        **truth.common,
    }
    for name in metrics:
        row |= {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
    if "kl_pushforward" in metrics:  # samples of the data have the data's density
        row |= {"kl_pushforward_floor": 0.0, "kl_pushforward_folded": np.nan}
    if not finite.all():
        return row
    if not solver.stochastic:
        row |= _measured("rms", distances.rms, made.x, truth.reference, seed)
    row["discretization"] = measures[PART_METRIC](made.x, truth.reference, seed)
    for name in metrics:
        if name in measures:
            row |= _measured(name, measures[name], made.x, truth.data, seed)
    if "kl_pushforward" in metrics and not (solver.stochastic or solver.adaptive):
        ratio, sign = measure.log_ratio(problem, candidate, jax.random.key(seed), num, batch)
        row |= _measured("kl_pushforward", _mean, ratio[:, None], ratio[:, None], seed)
        row["kl_pushforward_folded"] = float(min(np.mean(sign < 0), np.mean(sign > 0)))
    return row


def _measured(name: str, f: Callable[..., float], x: Any, y: Any, seed: int) -> Row:
    """f(x, y, seed) under its name, with its interval."""
    from sde_diffusion.metrics import distances

    low, high = distances.interval(f, x, y, seed)
    return {name: f(x, y, seed), f"{name}_low": low, f"{name}_high": high}


def _mean(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    return float(np.mean(x, dtype=np.float64))
