"""--solver, --grid, --steps and --guidance as fields of a config; options that are refused."""

import math
from argparse import Namespace

from sde_diffusion import notation


def sampling_options(args: Namespace) -> dict[str, str]:
    """{"sampling.solver.name": "ddim", ...}, in the form of overrides of a config."""
    if args.solver is not None and args.solver.endswith(".json"):
        if args.grid is not None or args.steps is not None:
            raise ValueError(
                f"--solver {args.solver} brings its own grid: leave out --grid and --steps"
            )
        fitted = {"sampling.solver.name": "fitted", "sampling.solver.path": args.solver}
        return fitted | _guidance_options(args)
    options = _guidance_options(args)
    if args.steps is not None:
        options["sampling.steps"] = str(args.steps)
    for kind, text in (("solver", args.solver), ("grid", args.grid)):
        if text is not None:
            name, fields = notation.read(kind, text)
            named = {"name": name, **fields}
            options |= {f"sampling.{kind}.{field}": str(value) for field, value in named.items()}
    return options


def _guidance_options(args: Namespace) -> dict[str, str]:
    """--guidance and --guidance-interval; ValueError unless an interval is LOW,HIGH."""
    options = {}
    if args.guidance is not None:
        if not math.isfinite(args.guidance):
            raise ValueError(f"--guidance must be a finite number, got {args.guidance}")
        options["sampling.guidance.weight"] = str(args.guidance)
    if args.guidance_interval is not None:
        if args.guidance is None:
            raise ValueError("--guidance-interval needs --guidance, the weight on the interval")
        try:
            low, high = (float(end) for end in args.guidance_interval.split(","))
        except ValueError:
            raise ValueError(
                f"--guidance-interval is written as LOW,HIGH, got {args.guidance_interval!r}"
            ) from None
        if not 0 <= low < high:
            raise ValueError(f"--guidance-interval needs 0 <= LOW < HIGH, got {low:g},{high:g}")
        options["sampling.guidance.interval"] = f"({low}, {high})"
    return options


def require_none(args: Namespace, names: tuple[str, ...], why: str) -> None:
    """Raise ValueError, with the reason, where one of these options is given."""
    given = [name for name in names if getattr(args, name) is not None]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} {why}")
