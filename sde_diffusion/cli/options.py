"""--solver, --grid and --steps as the fields of a config that they are short for."""

from argparse import Namespace

from sde_diffusion import notation


def sampling_options(args: Namespace) -> dict[str, str]:
    """{"sampling.solver.name": "ddim", ...}, in the form of overrides of a config."""
    if args.solver is not None and args.solver.endswith(".json"):
        if args.grid is not None or args.steps is not None:
            raise ValueError(
                f"--solver {args.solver} brings its own grid: leave out --grid and --steps"
            )
        return {"sampling.solver.name": "fitted", "sampling.solver.path": args.solver}
    options = {} if args.steps is None else {"sampling.steps": str(args.steps)}
    for kind, text in (("solver", args.solver), ("grid", args.grid)):
        if text is not None:
            name, fields = notation.read(kind, text)
            named = {"name": name, **fields}
            options |= {f"sampling.{kind}.{field}": str(value) for field, value in named.items()}
    return options
