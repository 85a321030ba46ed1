"""The command compare: solvers on an exact problem, or on a trained network."""

from argparse import Namespace
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from sde_diffusion import comparison, notation, sdes, selection
from sde_diffusion.cli import run
from sde_diffusion.cli.trained import trained_problem
from sde_diffusion.comparison import problems
from sde_diffusion.comparison.candidates import Candidate
from sde_diffusion.comparison.table import table


def compare(args: Namespace, overrides: dict[str, str]) -> None:
    """Compare solvers, print a table, and leave results and pictures in a folder."""
    if (args.problem is None) == (args.workdir is None):
        raise ValueError("compare needs either --problem or --workdir")
    if args.num < 64:
        raise ValueError(f"--num must be at least 64, got {args.num}")
    nfe = _numbers("--nfe", args.nfe)
    denoise_last = _truths("--denoise-last", args.denoise_last)
    if args.problem is not None:
        if overrides:
            raise ValueError(f"--config.{next(iter(overrides))} needs --workdir")
        sde = selection.choose("sde", args.sde or "vp", sdes.KINDS)()
        problem = problems.named(args.problem, sde)
    else:
        if args.sde is not None:
            raise ValueError("--sde goes with --problem: a trained network has its own")
        problem = trained_problem(run.folder(args.workdir), overrides, step=args.step, ema=args.ema)

    def progress(todo: Sequence[Candidate]) -> Iterable[Candidate]:
        bar = tqdm(todo, unit="row")
        for candidate in bar:
            bar.set_description(candidate.label)
            yield candidate

    rows = comparison.compare(
        problem,
        args.solvers,
        nfe,
        grids=notation.split(args.grids),
        denoise_last=denoise_last,
        metrics=args.metrics.split(",") if args.metrics else None,
        num=args.num,
        seed=args.seed,
        out=args.out,
        progress=progress,
    )
    shown = [name for name in comparison.METRICS if name in rows[0]]
    print(table(rows, shown))
    print(f"{len(rows)} rows: {args.out}/report.html, results.csv, results.json, pictures")


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag} takes whole numbers, as in 5,10,20; got {text!r}") from None


def _truths(flag: str, text: str) -> list[bool]:
    known = {"true": True, "false": False}
    try:
        return [known[part] for part in text.lower().split(",")]
    except KeyError:
        raise ValueError(f"{flag} takes true, false or true,false; got {text!r}") from None
