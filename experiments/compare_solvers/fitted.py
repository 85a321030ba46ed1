"""Fitted solvers beside the best standard ones, on noise that was not fitted to.

    python experiments/compare_solvers/fitted.py [--problems mixture2d,mixture64d] [--sdes vp,edm]
        [--diffusers FILE,FILE] [--out DIR]
    python experiments/compare_solvers/fitted.py --workdir runs/digits

The error is the distance of a sample to where the probability flow takes its start, root mean
square over samples, denoised there; every network evaluation counts. `standard` is the best of
every deterministic solver on GRIDS, each with a last evaluation that denoises and with a step more
in its place. With `--diffusers`, files that diffusers_schedulers.py wrote, the fitted error is held
against that of diffusers' best, too.
"""

import argparse
import itertools
import json
from argparse import Namespace
from pathlib import Path

import jax
import numpy as np

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.cli import fit as command
from sde_diffusion.cli.compare import trained_problem
from sde_diffusion.comparison import problems
from sde_diffusion.comparison.candidates import candidates

SDES = {"vp": sd.VP(t_min=1e-3), "edm": sd.EDM()}
STANDARD = "all,unipc(p=2),deis(order=2)"
GRIDS = (
    *("uniform", "leading", "trailing", "quadratic"),
    *("log_snr", "karras", "cosine", "beta"),
)


def ends(
    problem: problems.Problem,
    args: Namespace,
    solver: sd.Solver,
    grid: jax.Array | None = None,
    *,
    denoise_last: bool = True,
) -> np.ndarray:
    """Where a solver takes noise that was not fitted to, [N, D]."""
    num = args.num or (8192 if problem.exact is not None else 4096)
    model = problem.model
    if problem.conditions:
        model = sd.with_condition(model, **problem.conditions(np.arange(num)))
    key, shape = jax.random.key(args.seed + 1), (num, *problem.event)
    options = {"solver": solver, "grid": grid, "denoise_last": denoise_last}
    made = sd.sample(key, model, problem.sde, shape, **options)
    return np.asarray(made.x.reshape(num, -1))


def study(problem: problems.Problem, fine: np.ndarray, nfe: int, args: Namespace) -> dict:
    """A row: how far from `fine` the best standard solver and the fitted one end."""
    fitted = sd.fit(
        jax.random.key(args.seed),
        problem.model,
        problem.sde,
        nfe=nfe,
        seconds=args.seconds,
        conditions=problem.conditions,
        **command.sizes(problem),
    )

    standard = {}
    for item in candidates(STANDARD, (nfe,), GRIDS, problem.sde, (True, False)):
        if item.solver.stochastic or item.solver.adaptive:
            continue
        made = ends(problem, args, item.solver, item.times, denoise_last=item.denoise_last)
        told = "" if item.denoise_last else ", not denoised"
        standard[f"{item.label}, {item.grid_name}{told}"] = _rms(made - fine)
    best = min(standard, key=lambda name: np.nan_to_num(standard[name], nan=np.inf))
    reached = _rms(ends(problem, args, fitted.solver) - fine)
    # Each compiled program holds memory maps, of which Linux gives a process 65,530.
    jax.clear_caches()
    return {
        "problem": problem.name,
        "sde": type(problem.sde).__name__.lower(),
        "nfe": nfe,
        "standard": standard[best],
        "by": best,
        "fitted": reached,
        "ratio": reached / standard[best],
        "seconds": fitted.seconds,
    }


def _rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.sum(difference**2, axis=-1))))


def table(rows: list[dict]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [
        [f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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
        studied = [problems.named(name, SDES[sde]) for name, sde in names]
    theirs = {}
    for file in filter(None, (args.diffusers or "").split(",")):
        for row in json.loads(Path(file).read_text())["best"]:
            theirs[row["problem"], row["sde"], row["nfe"]] = row["diffusers"]
    rows = []
    for problem in studied:
        fine = ends(problem, args, samplers.RK4(), grids.log_snr(problem.sde, 100))
        for nfe in map(int, args.nfe.split(",")):
            row = study(problem, fine, nfe, args)
            if theirs:
                row["of_diffusers"] = row["fitted"] / theirs[problem.name, row["sde"], nfe]
            rows.append(row)
            print(row, flush=True)
    print(table(rows))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "fitted.json").write_text(json.dumps(rows, indent=1) + "\n")
        (args.out / "fitted.md").write_text(table(rows))


if __name__ == "__main__":
    main()
