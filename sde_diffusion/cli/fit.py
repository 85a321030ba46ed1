"""The command that fits a solver to a trained network or to an exact problem."""

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sde_diffusion import fitting, noise, notation, samplers, sdes, selection
from sde_diffusion.analytic import Empirical
from sde_diffusion.cli import run
from sde_diffusion.cli.say import counted
from sde_diffusion.cli.trained import trained_problem
from sde_diffusion.comparison import problems

# A network, and a sum over all rows of some data, cost more than other exact models: fewer starts,
# chosen from fewer, and a coarser fine solution. `looked_at` starts are drawn for each that is
# fitted to. And so few steps that the first two phases would take all the time.
CHEAP: dict[str, Any] = {"num": 8192, "looked_at": 16, "fit": {"held_out": 8192}}
DEAR: dict[str, Any] = {
    "num": 1024,
    "looked_at": 8,
    "fit": {
        "held_out": 1024,
        "fine_steps": 64,
        "jacobian": 64,
        "batch": 64,
        "shares": (0.25, 0.5),
    },
}
BAR = "{desc}: {n_fmt} of {total_fmt} s |{bar}| {postfix}"


def fit(args: Namespace, overrides: dict[str, str]) -> None:
    """Fit a solver in so many evaluations, and write it to a JSON file."""
    out = Path(args.out)
    if out.suffix != ".json":
        raise ValueError(f"--out must end in .json, got {out}")
    if args.nfe < 2:
        raise ValueError(f"--nfe must be at least 2, got {args.nfe}")
    if not 0 < args.seconds < math.inf:
        raise ValueError(f"--seconds must be a number above 0, got {args.seconds:g}")
    solver = None
    if args.solver is not None:
        name, fields = notation.read("solver", args.solver)
        solver = samplers.named(name, **fields)
    if args.num is not None and args.num < 1:
        raise ValueError(f"--num must be at least 1, got {args.num}")
    problem = _problem(args, overrides)
    out.parent.mkdir(parents=True, exist_ok=True)  # fails now, and not when there is a fit to lose
    run.enable_cache()
    with tqdm(total=args.seconds, unit="s", desc="fitting", bar_format=BAR) as bar:

        def progress(seconds: float, error: float) -> None:
            told = "preparing" if math.isnan(error) else f"error {error:.4g}"
            bar.set_postfix_str(told, refresh=False)
            bar.update(min(round(seconds, 1), args.seconds) - bar.n)

        fitted = fitting.fit(
            noise.key(args.seed),
            problem.model,
            nfe=args.nfe,
            solver=solver,
            t_min=problem.t_min,
            seconds=args.seconds,
            conditions=problem.conditions,
            progress=progress,
            **sizes(problem, args.num),
        )
    if not (math.isfinite(fitted.error) and math.isfinite(fitted.start_error)):
        raise FloatingPointError(
            f"the model's samples in {counted(args.nfe, 'evaluation')} have an error of "
            f"{fitted.start_error} by {fitted.start} and of {fitted.error} fitted: nothing is "
            "written"
        )
    fitting.save(out, fitted, problem.sde, problem.name)
    print(
        f"RMS error of {counted(args.nfe, 'evaluation')}, on starts held out: "
        f"{fitted.start_error:.4g} by {fitted.start}, {fitted.error:.4g} fitted, in "
        f"{fitted.seconds:.0f} s: {out}"
    )


def sizes(problem: problems.Problem, num: int | None = None) -> dict[str, Any]:
    """The `shape` of the starts that `fit` gets, and its options of how many there are of what."""
    dear = problem.exact is None or isinstance(problem.exact, Empirical)
    options = DEAR if dear else CHEAP
    num = num or options["num"]
    shape = (num, *problem.event)
    return {"shape": shape, "pool": num * options["looked_at"], **options["fit"]}


def _problem(args: Namespace, overrides: dict[str, str]) -> problems.Problem:
    if args.workdir is not None:
        if args.sde is not None:
            raise ValueError("--sde goes with --problem: a trained network has its own")
        return trained_problem(run.folder(args.workdir), overrides, step=args.step, ema=args.ema)
    if overrides:
        raise ValueError(f"--config.{next(iter(overrides))} needs --workdir")
    sde = selection.choose("sde", args.sde or "vp", sdes.KINDS)()
    return problems.named(args.problem, sde)
