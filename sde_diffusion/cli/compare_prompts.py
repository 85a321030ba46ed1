"""compare --pretrained: which solver is best on a pretrained pipeline, for a prompt."""

from argparse import Namespace

from sde_diffusion import comparison, notation
from sde_diffusion.cli import pretrained, run
from sde_diffusion.cli.budgets import numbers, progress
from sde_diffusion.cli.options import require_none

# Options of `compare` that only --pretrained takes, and those that it does not take.
OF_PROMPTS = ("prompt", "negative_prompt", "guidance", "size", "variant", "like", "dtype", "fine")
OF_OTHERS = ("sde", "step", "ema", "denoise_last", "metrics")


def compare_prompts(args: Namespace, overrides: dict[str, str]) -> None:
    """Compare solvers on the pipeline --pretrained, print a table, and leave results in --out."""
    require_none(args, OF_OTHERS, "is not for --pretrained")
    if overrides:
        raise ValueError(f"--config.{next(iter(overrides))}: a pretrained folder has no config")
    num = 1 if args.num is None else args.num
    if num < 1:
        raise ValueError(f"--num must be at least 1, got {num}")
    nfe = numbers("--nfe", args.nfe or "5,10,20")
    run.enable_cache()
    pipe = pretrained.load(args)
    pretrained.require_prompt(pipe, args.prompt is not None)
    rows = comparison.compare_prompts(
        pipe,
        num if pipe.text is None else [args.prompt] * num,
        args.solvers,
        nfe,
        grids=notation.split(args.grids) if args.grids else None,
        negative=args.negative_prompt,
        guidance=args.guidance,
        size=pretrained.size_of(args, pipe),
        seed=args.seed,
        name=args.pretrained,
        out=args.out,
        progress=progress,
        **({} if args.fine is None else {"fine": args.fine}),
    )
    print(comparison.prompts_table(rows))
    print(f"{len(rows)} rows: {args.out}/rms.png, pictures.png, results.csv, results.json")
