"""The candidates of a comparison: solvers with their grids and budgets of evaluations."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sde_diffusion import fitting, grids, notation, samplers
from sde_diffusion.samplers import Solver
from sde_diffusion.sdes import SDE, Array

logger = logging.getLogger(__name__)

# An adaptive solver runs at each of these tolerances. The stochastic ones lie closer together: the
# number of evaluations grows about as tolerance^-0.6, and 1e-4 would take more than 8,000.
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)
STOCHASTIC_TOLERANCES = (0.5, 0.1, 0.05, 0.01)


# (sde, steps) -> the steps + 1 decreasing times.
Grid = Callable[[SDE, int], Any]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A solver on a grid of times, given at most `budget` evaluations, or a tolerance.

    With `denoise_last` the last evaluation denoises the end of the last step.
    """

    label: str
    solver: Solver
    grid_name: str
    grid: tuple[float, ...]
    budget: int | None
    denoise_last: bool = True

    @property
    def steps(self) -> int:
        return len(self.grid) - 1

    @property
    def times(self) -> Array:
        return jnp.asarray(np.asarray(self.grid))


def parse(text: str, sde: SDE) -> tuple[str, Solver]:
    """(label, solver) of "heun", "ddim(eta=0.5)" or "solver.json"; ValueError lists the choices.

    A .json file must be one that `fit` wrote for this SDE.
    """
    if text.endswith(".json"):
        return Path(text).stem, fitting.load(text, sde)
    name, fields = notation.read("solver", text)
    return text.strip().replace(" ", ""), samplers.named(name, **fields)


def candidates(
    solvers: str | Iterable[str | Solver],
    nfe: Sequence[int],
    given_grids: Sequence[str | Grid],
    sde: SDE,
    denoise_last: Sequence[bool] = (True,),
    *,
    t_min: float | None = None,
) -> list[Candidate]:
    """A candidate for every solver, grid, budget and value of `denoise_last`.

    Grids that are given by name end at t_min, and so do adaptive solvers.

    A solver that denoises by itself has no candidate without a last denoising evaluation. A fitted
    solver runs once, on its own grid. An adaptive solver chooses its own steps, so it runs once for
    each of TOLERANCES (STOCHASTIC_TOLERANCES if it draws noise), or once with the tolerance that it
    was given. Of "all" solvers, those that do not fit the SDE or the budget are left out with a
    warning.

    Raises ValueError for an unknown solver or grid, and for a solver, grid or budget that does not
    fit, unless "all" solvers were asked for. ImportError for one that needs a package that is not
    installed, unless so.
    """
    if not nfe or min(nfe) < 1:
        raise ValueError(f"nfe needs numbers of at least 1, got {nfe}")
    if not denoise_last:
        raise ValueError("denoise_last: none is given; (True,), (False,) or (True, False)")
    made_grids = dict(_grid(given, t_min) for given in given_grids)
    given = notation.split(solvers) if isinstance(solvers, str) else list(solvers)
    if not given:
        raise ValueError("solvers: none is given; names, or all")
    everything = "all" in given
    named = [name for item in given for name in (samplers.SOLVERS if item == "all" else (item,))]
    made = []
    for item in dict.fromkeys(named):
        label, solver = parse(item, sde) if isinstance(item, str) else (repr(item), item)
        for last in dict.fromkeys(last or solver.denoises for last in denoise_last):
            if solver.adaptive:
                made += _adaptive(label, solver, sde, last, t_min)
            elif solver.times is not None:
                steps = len(solver.times) - 1
                budget = steps * solver.evaluations + _extra(solver, last)
                made.append(Candidate(label, solver, "own", tuple(solver.times), budget, last))
            else:
                made += _at_budgets(label, solver, nfe, made_grids, sde, last, skip=everything)
    problems = [_problem(candidate, sde) for candidate in made]
    if not everything:
        for problem in filter(None, problems):
            raise problem
    for told in dict.fromkeys(str(problem) for problem in problems if problem is not None):
        logger.warning("left out: %s", told)
    return [c for c, problem in zip(made, problems, strict=True) if problem is None]


def _grid(given: str | Grid, t_min: float | None) -> tuple[str, Grid]:
    """(label, grid) of "karras", "karras(rho=3)" or a function; ValueError lists the choices."""
    if not isinstance(given, str):
        return getattr(given, "__name__", repr(given)), given
    name, fields = notation.read("grid", given)
    return given.strip().replace(" ", ""), partial(grids.with_fields(name, **fields), t_min=t_min)


def _problem(candidate: Candidate, sde: SDE) -> Exception | None:
    """Why the solver cannot run here, on the SDE."""
    try:
        samplers.check(candidate.solver, sde, candidate.times)
    except (ValueError, ImportError) as error:
        return error
    return None


def _extra(solver: Solver, denoise_last: bool) -> int:
    """The evaluations besides those of each step: the solver's own, and 1 if it is to denoise."""
    return solver.extra_evaluations + int(denoise_last and not solver.denoises)


def _at_budgets(
    label: str,
    solver: Solver,
    nfe: Sequence[int],
    made_grids: Mapping[str, Grid],
    sde: SDE,
    denoise_last: bool,
    *,
    skip: bool,
) -> list[Candidate]:
    made = []
    extra, denoises = _extra(solver, denoise_last), denoise_last and not solver.denoises
    for budget in nfe:
        steps = (budget - extra) // solver.evaluations
        if steps < 1:
            if skip:
                continue
            raise ValueError(
                f"solver {label!r} needs nfe of at least {solver.evaluations + extra}, "
                f"a step{' and the evaluation that denoises' * denoises}, got {budget}"
            )
        for name, grid in made_grids.items():
            times = tuple(np.asarray(grid(sde, steps), float).tolist())
            made.append(Candidate(label, solver, name, times, budget, denoise_last))
    return made


def _adaptive(
    label: str, solver: Any, sde: SDE, denoise_last: bool, t_min: float | None
) -> list[Candidate]:
    ends = (float(sde.t_max), float(sde.t_min if t_min is None else t_min))
    kind = type(solver)
    if (solver.rtol, solver.atol) != (kind.rtol, kind.atol):  # the caller chose a tolerance
        return [Candidate(label, solver, "own", ends, None, denoise_last)]
    return [
        Candidate(
            f"{label}[{tolerance:g}]",
            dataclasses.replace(solver, rtol=tolerance, atol=tolerance),
            "own",
            ends,
            None,
            denoise_last,
        )
        for tolerance in (STOCHASTIC_TOLERANCES if solver.stochastic else TOLERANCES)
    ]
