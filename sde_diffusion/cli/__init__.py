"""The command line: sde-diffusion train, sample, evaluate."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

BAD_INPUT, NON_FINITE = 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 2 for bad input, or 3 for a loss that is not finite.

    Set SDE_DIFFUSION_TRACEBACK=1 to see where an error was raised.
    """
    args, rest = _parser().parse_known_args(argv)
    _say_warnings()
    try:
        overrides = _overrides(rest)
        # After the arguments are known to be right: this loads jax.
        from sde_diffusion.cli import commands
        from sde_diffusion.training import NonFiniteLoss

        try:
            getattr(commands, args.command)(args, overrides)
        except NonFiniteLoss as error:
            return _fail(error, NON_FINITE)
    except (ValueError, OSError, ImportError) as error:
        return _fail(error, BAD_INPUT)
    return 0


def _say_warnings() -> None:
    """What the package warns of, a line each on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("sde-diffusion: %(message)s"))
    logger = logging.getLogger("sde_diffusion")
    logger.handlers, logger.propagate = [handler], False


def _fail(error: Exception, code: int) -> int:
    if os.environ.get("SDE_DIFFUSION_TRACEBACK"):
        raise error
    print(f"sde-diffusion: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sde-diffusion",
        description="Diffusion models as stochastic differential equations.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", allow_abbrev=False, help="train the network of a config")
    train.add_argument("--config", required=True, help="a Python file with get_config()")
    train.add_argument("--workdir", required=True, help="the run's folder; a run there goes on")
    train.add_argument("--overwrite", action="store_true", help="remove the run that is there")

    sample = commands.add_parser("sample", allow_abbrev=False, help="draw samples")
    sample.add_argument("--num", type=int, default=100)
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--class", dest="label", type=int, help="one class; all in turn if absent")
    sample.add_argument("--out", required=True, help="a .png picture or an .npz with x (and y)")

    evaluate = commands.add_parser("evaluate", allow_abbrev=False, help="compare with the data")
    for command in (sample, evaluate):
        command.add_argument("--workdir", required=True, help="the folder of a trained run")
        command.add_argument("--solver", help="a solver's name, instead of the config's")
        command.add_argument("--grid", help="a time grid's name, instead of the config's")
        command.add_argument("--steps", type=int, help="steps of the solver")
    for command in (train, sample, evaluate):
        command.epilog = "--config.GROUP.FIELD=VALUE changes a field of the config."
    return parser


def _overrides(arguments: Sequence[str]) -> dict[str, str]:
    """{"optim.lr": "3e-4"} from ["--config.optim.lr=3e-4"] or ["--config.optim.lr", "3e-4"]."""
    overrides, rest = {}, list(arguments)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if not flag.startswith("--config.") or not (equals or rest):
            raise ValueError(f"unknown argument {flag!r}; see --help")
        overrides[flag.removeprefix("--config.")] = value if equals else rest.pop(0)
    return overrides
