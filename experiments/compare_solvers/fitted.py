"""Fitted solvers beside the best standard ones, on noise that was not fitted to.

    python experiments/compare_solvers/fitted.py [--problems mixture2d,mixture64d] [--sdes vp,edm]
        [--diffusers FILE,FILE] [--out DIR]
    python experiments/compare_solvers/fitted.py --workdir runs/digits

The error is the distance of a sample to where the probability flow takes its start, root mean
square over samples, denoised there; every network evaluation counts. `standard` is the best of
every deterministic solver on eight grids, each with a last evaluation that denoises and with a step
more in its place (standard.py): the best on the first 8,192 starts, and its error on all. With
`--diffusers`, files that diffusers_schedulers.py wrote, the fitted error is held against that of
diffusers' best, too.
"""

import argparse
import itertools
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import standard

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.cli import fit as command
from sde_diffusion.cli.compare import trained_problem
from sde_diffusion.comparison import problems
from sde_diffusion.comparison.candidates import Candidate

# Starts to measure on. Of an exact mixture the error hangs on one in a thousand, near the border
# between two modes; of the standard solvers, which are many, FEW tell the best.
NUM_EXACT, NUM_NETWORK, FEW = 131072, 4096, 8192


def ends(
    problem: problems.Problem,
    seed: int,
    num: int,
    solver: sd.Solver,
    grid: jax.Array | None = None,
    *,
    denoise_last: bool = True,
) -> np.ndarray:
    """Where a solver takes the first `num` starts, [num, D], of noise that was not fitted to."""
    cond = problem.conditions(np.arange(num)) if problem.conditions else None
    key, shape = jax.random.key(seed + 1), (num, *problem.event)
    options = {"solver": solver, "grid": grid, "denoise_last": denoise_last}
    made = sd.sample(key, problem.model, shape, cond=cond, **options)
    return np.asarray(made.x.reshape(num, -1))


def study(problem: problems.Problem, fine: np.ndarray, nfe: int, args: Namespace) -> dict:
    """A row: how far from `fine` the best standard solver and the fitted one end."""
    fitted = sd.fit(
        jax.random.key(args.seed),
        problem.model,
        nfe=nfe,
        seconds=args.seconds,
        conditions=problem.conditions,
        **command.sizes(problem),
    )

    def error(num: int, solver: sd.Solver, **options: Any) -> float:
        made = ends(problem, args.seed, num, solver, **options)
        return float(np.sqrt(np.mean(np.sum((made - fine[:num]) ** 2, axis=-1))))

    def of_standard(item: Candidate, num: int) -> float:
        return error(num, item.solver, grid=item.times, denoise_last=item.denoise_last)

    few = min(FEW, len(fine))
    best = min(
        standard.deterministic(problem.sde, nfe),
        key=lambda item: np.nan_to_num(of_standard(item, few), nan=np.inf),
    )
    least = of_standard(best, len(fine))
    reached = error(len(fine), fitted.solver)
    # Each compiled program holds memory maps, of which Linux gives a process 65,530.
    jax.clear_caches()
    return {
        "problem": problem.name,
        "sde": type(problem.sde).__name__.lower(),
        "nfe": nfe,
        "standard": least,
        "by": standard.told(best),
        "fitted": reached,
        "ratio": reached / least,
        "seconds": fitted.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default="mixture2d,mixture64d")
    parser.add_argument("--sdes", default="vp,edm")
    parser.add_argument("--workdir", type=Path, help="a trained run, in place of the problems")
    parser.add_argument("--nfe", default="5,8,10")
    parser.add_argument("--seconds", type=float, default=110.0, help="of each fit")
    parser.add_argument("--num", type=int, help="starts to measure on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--diffusers", help="diffusers.json, one or more between commas")
    parser.add_argument("--out", type=Path, help="a folder for fitted.json and fitted.md")
    args = parser.parse_args()
    if args.workdir is not None:
        studied = [trained_problem(args.workdir, {})]
    else:
        names = itertools.product(args.problems.split(","), args.sdes.split(","))
        studied = [problems.named(name, standard.SDES[sde]) for name, sde in names]
    theirs = {}
    for file in filter(None, (args.diffusers or "").split(",")):
        for row in json.loads(Path(file).read_text())["best"]:
            theirs[row["problem"], row["sde"], row["nfe"]] = row["diffusers"]
    rows = []
    for problem in studied:
        num = args.num or (NUM_NETWORK if problem.exact is None else NUM_EXACT)
        fine = ends(problem, args.seed, num, samplers.RK4(), grids.log_snr(problem.sde, 100))
        for nfe in map(int, args.nfe.split(",")):
            row = study(problem, fine, nfe, args)
            if theirs:
                row["of_diffusers"] = row["fitted"] / theirs[problem.name, row["sde"], nfe]
            rows.append(row)
            print(row, flush=True)
    print(standard.table(rows))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "fitted.json").write_text(json.dumps(rows, indent=1) + "\n")
        (args.out / "fitted.md").write_text(standard.table(rows))


if __name__ == "__main__":
    main()
