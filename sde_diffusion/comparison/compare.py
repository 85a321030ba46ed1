"""compare(): measure every candidate on a problem and return a row for each."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import noise
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
# kl_pushforward is measured by default up to this dimension: it costs one sampler a dimension.
PUSHFORWARD_DIMENSIONS = 64
# The number of samples of the data in a problem's fingerprint.
PROBES = 8
# A floor is the mean over this many pairs of sets of the data.
FLOORS = 4
# The metric of the error's parts: cheap, in the data's units, and for any dimension.
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
    """One row for each solver, grid, budget and value of `denoise_last`: errors, time and memory.

    Args:
      problem: a name in `comparison.problems.PROBLEMS`, used with `sde` (VP by default), or a
        `Problem`.
      solvers: "all", names such as "heun" or "ddim(eta=0.5)", or solvers.
      nfe: the budgets. Every evaluation counts, including the last one, which denoises.
      grids: names such as "karras" or "karras(rho=3)", which end at the t_min of the problem, or
        functions (sde, steps) -> times.
      denoise_last: whether the last evaluation denoises. Without it the solver may take one step
        more. (True, False) measures both.
      metrics: names in METRICS; by default all that apply. Of the two KL divergences at most one
        applies, and only where the density of the data is known: `kl`, in up to three dimensions,
        is estimated from the samples alone; `kl_pushforward`, in up to 64, takes the density of
        the solver's own map, so it needs a deterministic solver with fixed steps.
      num: the number of samples of each row, and of the data that they are compared with.
      seed: the seed of the samples.
      batch: the number of samples that go through the model at once.
      out: a folder. results.json, results.csv, pictures and report.html are written there. Rows of
        the same problem that it already holds are not measured again.
      progress: wraps the list of candidates, as tqdm does.

    Returns:
      A list of dicts. Each metric has a 95 % interval (`_low`, `_high`) and a floor (`_floor`): its
      value between two disjoint sets of `floor_num` exact samples. `rms` is, for a deterministic
      solver, the distance of each sample to the end of the exact flow from the same start.
      `discretization`, `truncation` and `score_error` are the three parts of the error, measured by
      PART_METRIC. `kl_pushforward` is a lower bound where `kl_pushforward_folded`, the share of
      samples with the rarer sign (see `pushforward`), is above zero. A row with samples that are
      not finite is kept, and its errors are nan.

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
    todo = candidates(solvers, nfe, grids, problem.sde, denoise_last, t_min=problem.t_min)
    folder = None if out is None else Path(out)
    done = {row["id"]: row for row in store.load(folder / "results.json")} if folder else {}
    common = {
        "problem": problem.name,
        "sde": _sde_of(problem),
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

        # The report also shows the rows that the folder already held, if measured in the same way.
        same = [row for row in done.values() if {**row, **common} == row]
        shown = [row for row in same if all(metric in row for metric in metrics)]
        report.write(folder, shown, metrics, PART_METRIC)
    return rows


def _sde_of(problem: Problem) -> str:
    """The SDE, and where solvers stop if not at its t_min, so that rows differ in this."""
    stops = "" if problem.t_min is None else f", stopped at t_min={problem.t_min:g}"
    return f"{problem.sde!r}{stops}"


def _fingerprint(problem: Problem) -> str:
    """A hash of some data and of the model's output for them, since names are not unique."""
    x = jnp.asarray(problem.data(jax.random.key(0), PROBES))
    cond = problem.conditions(np.arange(PROBES)) if problem.conditions else None
    middle = jnp.asarray(0.5 * sum(problem.ends))
    x0 = _x0(problem.model, x, middle, cond)
    return hashlib.sha256(np.asarray(x).tobytes() + np.asarray(x0).tobytes()).hexdigest()[:16]


@jax.jit
def _x0(model: Model, x: jax.Array, t: jax.Array, cond: Any) -> jax.Array:
    return model(x, t, cond).x0


class _Truth(NamedTuple):
    """What every row is compared with: exact samples and the fine solution, [num, *event]."""

    data: np.ndarray
    reference: np.ndarray
    common: dict[str, Any]


def _usual(problem: Problem) -> list[str]:
    """The metrics that are measured by default."""
    size = math.prod(problem.event)
    fits = {
        "kl": size <= KL_DIMENSIONS,
        "kl_pushforward": KL_DIMENSIONS < size <= PUSHFORWARD_DIMENSIONS,
    }
    usual = [name for name in METRICS if fits.get(name, True)]
    return usual if _has_density(problem) else [name for name in usual if name not in fits]


def _has_density(problem: Problem) -> bool:
    """Whether the data has a known density that is finite; that of single points is not."""
    if problem.exact is None:
        return False
    return bool(jnp.all(jnp.isfinite(problem.log_prob(problem.data(jax.random.key(0), PROBES)))))


def _measures(problem: Problem, names: Sequence[str]) -> dict[str, Any]:
    """f(x, y, seed) for each metric of two sets. `kl` uses x and the exact density instead of y."""
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

    key = noise.key(seed)
    # Keys for the data. The key itself decides the noise of the samples.
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
    # Sets that share rows would be too close, so each pair is the two halves of one draw.
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
    """Whether each sample of x [N, *event] is finite, [N]."""
    return np.isfinite(x.reshape(len(x), -1)).all(axis=-1)


def _told(candidate: Candidate) -> dict[str, Any]:
    # Stored only if it is not the default: rows of earlier versions keep their identity.
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

    made = measure.run(problem, candidate, noise.key(seed), num, batch)
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
    if "kl_pushforward" in metrics:  # exact samples have the exact density
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
        ratio, sign = measure.log_ratio(problem, candidate, noise.key(seed), num, batch)
        row |= _measured("kl_pushforward", _mean, ratio[:, None], ratio[:, None], seed)
        row["kl_pushforward_folded"] = float(min(np.mean(sign < 0), np.mean(sign > 0)))
    return row


def _measured(name: str, f: Callable[..., float], x: Any, y: Any, seed: int) -> Row:
    """The metric f(x, y, seed) with its interval, as fields of a row."""
    from sde_diffusion.metrics import distances

    low, high = distances.interval(f, x, y, seed)
    return {name: f(x, y, seed), f"{name}_low": low, f"{name}_high": high}


def _mean(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    return float(np.mean(x, dtype=np.float64))
