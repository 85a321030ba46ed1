"""compare_prompts(): which solver is best on a pretrained pipeline, by the distance to a fine one.

Every solver starts with the same noise z at x = sigma(t) z, for the first time t of its grid, and
is compared with a fine solution of the probability flow from the same noise:

    rms = sqrt(mean((x - x_fine)^2))

over the numbers of the latents, and over those of the decoded pictures. So it needs no data. The
model is compiled once, and a solver's own steps are run without compilation: a pretrained network
takes longer to compile than to sample from.
"""

import dataclasses
import hashlib
import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import noise, samplers
from sde_diffusion.comparison import prompts_report, store
from sde_diffusion.comparison.candidates import Candidate, Grid, candidates
from sde_diffusion.comparison.compare import Progress
from sde_diffusion.comparison.store import Row
from sde_diffusion.grids import log_snr
from sde_diffusion.model import Model
from sde_diffusion.pipeline import Pipeline, Size
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers import Counted, Solver
from sde_diffusion.samplers.solver import draw_start
from sde_diffusion.sdes import SDE, Array

# The steps of the fine solution, by a solver of order 3 on times uniform in the log-SNR.
FINE = 100
# A step is not cut where the signal is less than exp(-6) of the noise.
LOWEST = -6.0
OWN = "own"


@dataclasses.dataclass(frozen=True)
class Task:
    """A pipeline's guided model with its condition for these prompts, and the noise."""

    pipe: Pipeline
    model: Model
    cond: Any
    keys: Array
    size: Size

    @property
    def num(self) -> int:
        return len(self.keys)

    def end(self, solver: Solver, times: Array, row: int) -> tuple[Array, Array | int]:
        """The denoised latents [1, h, w, c] of one sample, and the evaluations they took."""
        at = slice(row, row + 1)
        keys, cond = self.keys[at], jax.tree.map(lambda leaf: leaf[at], self.cond)

        def function(params: Any, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
            # The network and no more is compiled, for a time of one shape and dtype.
            return _evaluated(self.model, x, jnp.broadcast_to(t, (1,)), cond)

        model = Counted(Model(self.model.sde, function))
        x = draw_start(keys, model.sde, times, self.pipe.latent_shape(1, self.size))
        state = solver.init(x, times, True)
        for t, s in itertools.pairwise(times):
            state = solver.step(keys, model, state, t, s, cond)
        x = state.x if solver.denoises else model(state.x, times[-1], cond).x0
        return x, model.calls


@jax.jit
def _evaluated(model: Model, x: Array, t: Array, cond: Any) -> Prediction:
    return model(x, t, cond)


def compare_prompts(
    pipe: Pipeline,
    prompts: Sequence[str] | int,
    solvers: str | Sequence[str | Solver] = "all",
    nfe: Sequence[int] = (8,),
    *,
    grids: Sequence[str | Grid] | None = None,
    negative: str | Sequence[str] | None = None,
    guidance: float | None = None,
    size: Size | None = None,
    seed: int = 0,
    fine: int = FINE,
    name: str = "pipeline",
    out: str | Path | None = None,
    progress: Progress = lambda todo: todo,
) -> list[Row]:
    """One row for each solver, grid and budget: the distance of its pictures to the fine ones.

    Args:
      prompts: one for each sample; their number for a pipeline without texts.
      solvers: "all", which are those that draw no noise and have fixed steps, names or solvers.
      nfe: the budgets, in evaluations of the solver, with the last one, which denoises. Each is two
        of the network where there is guidance, which `nfe` of a row counts.
      grids: names, functions (sde, steps) -> times, or "own" for the pipeline's own times. By
        default "own", and "karras" where the log-SNR is finite at t_max.
      negative, guidance, size: see `Pipeline.latents`.
      seed: of the noise.
      fine: the steps of the fine solution. `reference_error` is its distance to that of half the
        steps; differences below it say nothing.
      name: of the pipeline, in the rows.
      out: a folder for results.json, results.csv and pictures; rows of the same pipeline and noise
        that it holds are not measured again.
      progress: wraps the list of candidates, as tqdm does.

    Returns rows with `rms` of the latents, `rms_pictures` in units of [0, 1], `seconds` for all
    samples, and `finite`, the share of them that is finite.

    Raises ValueError for solvers that draw noise or choose their own steps, and where
    `comparison.compare` and `Pipeline.latents` do.
    """
    model, cond = pipe.guided(prompts, negative=negative, guidance=guidance, size=size)
    num = prompts if isinstance(prompts, int) else len(prompts)
    keys = noise.sample_keys(noise.key(seed), num)
    task = Task(pipe, model, cond, keys, pipe.size if size is None else size)
    if fine < 2:
        raise ValueError(f"fine must be at least 2 steps, got {fine}")
    todo = _fitting(solvers, nfe, grids, task)
    folder = None if out is None else Path(out)
    done = {row["id"]: row for row in store.load(folder / "results.json")} if folder else {}
    common = {
        "problem": name,
        "prompts": prompts if isinstance(prompts, int) else list(prompts),
        "negative": negative if negative is None or isinstance(negative, str) else list(negative),
        "guidance": pipe.guidance if guidance is None else guidance,
        "size": list(task.size),
        "seed": seed,
        "fine_steps": fine,
        "device": jax.devices()[0].device_kind,
        "problem_id": _fingerprint(task),
    }
    names = {c: store.identity({**_told(c), **common}) for c in todo}
    left = [c for c in todo if names[c] not in done]
    if left:
        reference = _reference(task, fine)
        for candidate in progress(left):
            row, picture = _row(task, candidate, reference)
            done[names[candidate]] = {"id": names[candidate], **common, **row}
            if folder:
                store.save(folder, list(done.values()))
                prompts_report.keep(folder, names[candidate], picture)
        if folder:
            prompts_report.keep(folder, common["problem_id"], reference.pictures[0])
    rows = [done[names[c]] for c in todo]
    if folder:
        prompts_report.draw(folder, rows)
    return rows


@dataclasses.dataclass(frozen=True)
class Reference:
    """The fine solution's latents and pictures, and their distances to one of half the steps."""

    latents: np.ndarray
    pictures: np.ndarray
    error: float
    pictures_error: float


def _reference(task: Task, steps: int) -> Reference:
    solver, made = samplers.UniPC(), []
    for n in (steps, steps // 2):
        times = fine_times(task.model.sde, n)
        ends = [task.end(solver, times, i)[0] for i in range(task.num)]
        made.append((np.concatenate(ends), task.pipe.decode(jnp.concatenate(ends))))
    (latents, pictures), (coarse, coarse_pictures) = made
    if not np.isfinite(latents).all():
        raise ValueError(f"the fine solution, {steps} steps of {solver}, is not finite")
    return Reference(latents, pictures, _rms(latents, coarse), _rms(pictures, coarse_pictures))


def fine_times(sde: SDE, steps: int) -> Array:
    """Times uniform in the log-SNR, after a first step from a t_max where it is infinite."""
    first, last = sde.log_snr(sde.t_max), sde.log_snr(sde.t_min)
    if first >= LOWEST:
        return log_snr(sde, steps)
    inner = sde.t_of_log_snr(jnp.linspace(LOWEST, last, steps)[:-1])
    return jnp.concatenate([jnp.full(1, sde.t_max), inner, jnp.full(1, sde.t_min)])


def _row(task: Task, candidate: Candidate, reference: Reference) -> tuple[Row, np.ndarray]:
    clock = time.perf_counter()
    ends = [task.end(candidate.solver, candidate.times, i) for i in range(task.num)]
    latents = np.concatenate([np.asarray(x) for x, _ in ends])
    seconds = time.perf_counter() - clock
    pictures = task.pipe.decode(jnp.asarray(latents))
    finite = np.isfinite(latents).reshape(task.num, -1).all(axis=1)
    return {
        "solver": candidate.label,
        "grid": candidate.grid_name,
        "denoise_last": True,
        "budget": candidate.budget,
        "steps": candidate.steps,
        "nfe": float(np.max([np.max(nfe) for _, nfe in ends])),
        "order": candidate.solver.order,
        "finite": float(np.mean(finite)),
        "seconds": seconds,
        "rms": _rms(latents, reference.latents),
        "rms_pictures": _rms(pictures, reference.pictures),
        "reference_error": reference.error,
        "reference_error_pictures": reference.pictures_error,
    }, pictures[0]


def _rms(x: np.ndarray, y: np.ndarray) -> float:
    """The root of the mean square over all numbers, nan where one is not finite."""
    value = math.sqrt(float(np.mean((x.astype(np.float64) - y) ** 2)))
    return value if math.isfinite(value) else math.nan


def _fitting(
    solvers: str | Sequence[str | Solver],
    nfe: Sequence[int],
    given: Sequence[str | Grid] | None,
    task: Task,
) -> list[Candidate]:
    """The candidates, of which "all" are those that can be compared with a fine solution."""
    sde = task.model.sde
    if given is None:
        given = (OWN, "karras") if math.isfinite(sde.log_snr(sde.t_max)) else (OWN,)
    made = candidates(solvers, nfe, [_own_or(grid, task) for grid in given], sde)
    every = solvers == "all" or (not isinstance(solvers, str) and "all" in solvers)
    alone = [c for c in made if not (c.solver.stochastic or c.solver.adaptive)]
    if len(alone) < len(made) and not every:
        (label, *_) = (c.label for c in made if c not in alone)
        raise ValueError(
            f"{label} draws noise or chooses its steps: there is no fine solution from the same "
            "noise, or no budget, to compare it by"
        )
    if not alone:
        raise ValueError(f"no solver takes at most {max(nfe)} evaluations")
    return alone


def _own_or(grid: str | Grid, task: Task) -> str | Grid:
    """A grid, or that of the pipeline for the name "own"."""
    if grid != OWN:
        return grid

    def own(sde: SDE, steps: int) -> Array:
        # As many times as steps and one, whether or not the scheduler itself denoises after them.
        fewest = max(steps, 2)  # what a scheduler takes
        times, denoises = task.pipe.grid(fewest + 1, task.size)
        times = times if denoises else task.pipe.grid(fewest, task.size)[0]
        return times if steps == fewest else times[jnp.asarray([0, -1])]

    return own


def _told(candidate: Candidate) -> dict[str, Any]:
    return {
        "solver": candidate.label,
        "value": repr(candidate.solver),
        "grid": candidate.grid_name,
        "times": list(candidate.grid),
        "budget": candidate.budget,
    }


def _fingerprint(task: Task) -> str:
    """A hash of what the model makes of the noise, since names of pipelines are not unique."""
    sde = task.model.sde
    x, _ = task.end(samplers.DDIM(), jnp.asarray([sde.t_max, sde.t_min]), 0)
    return hashlib.sha256(np.asarray(x).tobytes()).hexdigest()[:16]
