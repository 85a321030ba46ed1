"""The command compare: solvers on an exact problem, a trained network or a pretrained one."""

from argparse import Namespace

from sde_diffusion import comparison, notation, sdes, selection
from sde_diffusion.cli import run
from sde_diffusion.cli.budgets import numbers, progress
from sde_diffusion.cli.compare_prompts import OF_PROMPTS, compare_prompts
from sde_diffusion.cli.options import require_none
from sde_diffusion.cli.trained import trained_problem
from sde_diffusion.comparison import problems
from sde_diffusion.comparison.table import table

NUM = 1000


def compare(args: Namespace, overrides: dict[str, str]) -> None:
    """Compare solvers, print a table, and leave results and pictures in a folder."""
    given = [args.problem, args.workdir, args.pretrained]
    if sum(value is not None for value in given) != 1:
        raise ValueError("compare needs one of --problem, --workdir and --pretrained")
    if args.pretrained is not None:
        compare_prompts(args, overrides)
        return
    require_none(args, OF_PROMPTS, "is for --pretrained")
    num = NUM if args.num is None else args.num
    if num < 64:
        raise ValueError(f"--num must be at least 64, got {num}")
    nfe = numbers("--nfe", args.nfe or "5,10,20,50,100")
    denoise_last = _truths("--denoise-last", args.denoise_last or "true")
    if args.problem is not None:
        if overrides:
            raise ValueError(f"--config.{next(iter(overrides))} needs --workdir")
        sde = selection.choose("sde", args.sde or "vp", sdes.KINDS)()
        problem = problems.named(args.problem, sde)
    else:
        if args.sde is not None:
            raise ValueError("--sde goes with --problem: a trained network has its own")
        problem = trained_problem(run.folder(args.workdir), overrides, step=args.step, ema=args.ema)
    rows = comparison.compare(
        problem,
        args.solvers,
        nfe,
        grids=notation.split(args.grids or "log_snr"),
        denoise_last=denoise_last,
        metrics=args.metrics.split(",") if args.metrics else None,
        num=num,
        seed=args.seed,
        out=args.out,
        progress=progress,
    )
    shown = [name for name in comparison.METRICS if name in rows[0]]
    print(table(rows, shown))
    print(f"{len(rows)} rows: {args.out}/report.html, results.csv, results.json, pictures")


def _truths(flag: str, text: str) -> list[bool]:
    known = {"true": True, "false": False}
    try:
        return [known[part] for part in text.lower().split(",")]
    except KeyError:
        raise ValueError(f"{flag} takes true, false or true,false; got {text!r}") from None
