"""The command line: train, distill, sample, evaluate, encode, compare, fit, plan, convert."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

FIELDS = "--config.GROUP.FIELD=VALUE changes a field of the config."
PRESET = "--config.preset=tpu sets the fields that make training fast on a slice of TPUs."

LIKE = (
    "for a single file of published shape, a folder with CLIP's tokenizer, vocab.json and "
    "merges.txt; for another, a pipeline's folder of its shape"
)
DTYPES = ("float32", "bfloat16", "float16")

BUG, BAD_INPUT, NON_FINITE, NO_ANSWER = 1, 2, 3, 4
INTERRUPTED = 130  # as the shell has it for a process that SIGINT ends


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code tells how it ended.

    0: done; 2: bad input; 3: a loss or samples that are not finite; 4: another host, or a bucket,
    did not answer, so that the same command may do another time; 130: Ctrl-C.

    Set SDE_DIFFUSION_TRACEBACK=1 to see where an error was raised.
    """
    args, rest = _parser().parse_known_args(argv)
    _say_warnings()
    try:
        overrides = read_overrides(rest)
        # After the arguments are known to be right: this loads jax.
        from sde_diffusion import distributed

        module = importlib.import_module(f"sde_diffusion.cli.{args.command}")
        with distributed.joined(
            args.coordinator,
            args.num_processes,
            args.process_id,
            join_timeout=args.join_timeout,
            describe=_describe,
        ):
            getattr(module, args.command)(args, overrides)
    except Exception as error:
        code, line = _describe(error)
        if code == BUG or os.environ.get("SDE_DIFFUSION_TRACEBACK"):
            raise
        print(line, file=sys.stderr)
        return code
    except KeyboardInterrupt:
        if os.environ.get("SDE_DIFFUSION_TRACEBACK"):
            raise
        print("sde-diffusion: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _say_warnings() -> None:
    """What the package warns of, a line each on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("sde-diffusion: %(message)s"))
    logger = logging.getLogger("sde_diffusion")
    logger.handlers, logger.propagate = [handler], False


def _describe(error: BaseException) -> tuple[int, str]:
    """The exit code, and the line that says what is wrong."""
    line = f"sde-diffusion: error: {' '.join(str(error).split())}"
    if isinstance(error, FloatingPointError):  # NonFiniteLoss, NonFiniteSamples
        return NON_FINITE, line
    if isinstance(error, TimeoutError | ConnectionError):
        return NO_ANSWER, line
    return (BAD_INPUT if isinstance(error, ValueError | OSError | ImportError) else BUG), line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sde-diffusion",
        description="Diffusion models as stochastic differential equations.",
        allow_abbrev=False,
    )
    parser.set_defaults(coordinator=None, num_processes=None, process_id=None, join_timeout=300)
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", allow_abbrev=False, help="train the network of a config")
    train.add_argument("--config", required=True, help="a Python file with get_config()")
    train.add_argument("--workdir", required=True, help="the run's folder; a run there goes on")
    train.add_argument("--overwrite", action="store_true", help="remove the run that is there")

    distill = commands.add_parser(
        "distill", allow_abbrev=False, help="train a network that samples in a few evaluations"
    )
    distill.add_argument("--workdir", help="the folder of the run that teaches")
    distill.add_argument("--out", required=True, help="the student's folder; a run there goes on")
    distill.add_argument(
        "--objective",
        help="trajectory, consistency, scm, meanflow, shortcut or progressive (trajectory, or "
        "consistency for --pretrained with data)",
    )
    distill.add_argument(
        "--guidance",
        metavar="W or LOW,HIGH",
        help="guide the teacher by a weight, or by weights from a range, of which sample "
        "--guidance then chooses one",
    )
    distill.add_argument("--lora", type=int, metavar="RANK", help="train adapters of this rank")
    distilled = distill.add_argument_group("a pretrained text-to-image model that teaches")
    _add_folder(distilled)
    distilled.add_argument("--prompt", action="append", help="a text to learn on; several add up")
    distilled.add_argument("--prompts", metavar="FILE", help="a file with a prompt on each line")
    distilled.add_argument("--size", help="HEIGHTxWIDTH in pixels; the model's own if absent")
    distill.add_argument("--overwrite", action="store_true", help="remove the run that is there")

    sample = commands.add_parser("sample", allow_abbrev=False, help="draw samples")
    sample.add_argument(
        "--num", type=int, help="100, or 10 for an image or each of several prompts, if absent"
    )
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument(
        "--class", dest="label", help="the name or number of one class; all if absent"
    )
    _add_pretrained(sample)
    sample.add_argument(
        "--prompt",
        action="append",
        help='a text, for a network that takes one; "" for none. Given again, another row: '
        "--num samples of each",
    )
    sample.add_argument("--prompts", metavar="FILE", help="a file with a prompt on each line")
    sample.add_argument("--image", help="an image, for a network that takes one or to fill in")
    sample.add_argument("--mask", help="an image that is white where --image is to be filled in")
    sample.add_argument("--super-resolve", help="an image smaller than the samples")
    sample.add_argument("--edit", help="an image that samples begin with; see --strength")
    sample.add_argument("--strength", type=float, help="how much --edit changes, from 0 to 1 (0.6)")
    sample.add_argument(
        "--method",
        help="of filling in and super-resolving without a network for it: "
        "mmps(iterations=1), which is the default, pigdm, tmpd or sda",
    )
    sample.add_argument(
        "--noise", type=float, help="std of the noise of what is given, for --method (0)"
    )
    sample.add_argument("--out", required=True, help="a .png picture, or an .npz of arrays")

    evaluate = commands.add_parser("evaluate", allow_abbrev=False, help="compare with the data")
    for command in (sample, evaluate):
        needed = command is evaluate
        command.add_argument("--workdir", required=needed, help="the folder of a trained run")
        _add_which(command)
        command.add_argument(
            "--solver", help="a solver, such as ddim(eta=1), or a fitted one's .json"
        )
        command.add_argument("--grid", help="a time grid, such as karras(rho=3)")
        command.add_argument("--steps", type=int, help="steps of the solver")
        command.add_argument(
            "--guidance", type=float, help="the weight of classifier-free guidance; 1 for none"
        )
        command.add_argument(
            "--guidance-interval",
            metavar="LOW,HIGH",
            help="the noise levels sigma / alpha at which guidance is used",
        )
    encode = commands.add_parser(
        "encode", allow_abbrev=False, help="write the latents of the data of an autoencoder"
    )
    encode.add_argument("--workdir", help="the folder of a trained autoencoder")
    encode.add_argument("--pretrained", help="a folder of diffusers, whose autoencoder encodes")
    encode.add_argument(
        "--text", help="a folder of diffusers, whose text encoders encode the texts of the records"
    )
    encode.add_argument(
        "--out", required=True, help="the folder of the latents; the same command goes on there"
    )
    _add_which(encode)
    encode.add_argument("--dtype", default="float32", help="float32, or float16 for half the size")
    for command in (train, distill, sample, evaluate, encode):
        hosts = command.add_argument_group(
            "many hosts", "the same command on each; TPU pods and SLURM need none of these"
        )
        hosts.add_argument("--coordinator", help="HOST:PORT of process 0")
        hosts.add_argument("--num-processes", type=int, help="how many there are")
        hosts.add_argument("--process-id", type=int, help="which one this is, from 0")
        hosts.add_argument(
            "--join-timeout", type=int, default=300, help="seconds to wait for the others (300)"
        )
        command.epilog = FIELDS
    train.epilog = f"{FIELDS} {PRESET}"
    _add_compare(commands)
    _add_fit(commands)
    _add_plan(commands)
    _add_convert(commands)
    return parser


def _add_pretrained(command: Any) -> None:
    pretrained = command.add_argument_group("pretrained models of images")
    _add_folder(pretrained)
    pretrained.add_argument("--negative-prompt", help="what the pictures are guided away from")
    pretrained.add_argument(
        "--lora",
        action="append",
        metavar="FILE[:WEIGHT]",
        help="adapters in a file of diffusers, PEFT or kohya; several add up",
    )
    pretrained.add_argument("--size", help="HEIGHTxWIDTH in pixels; the model's own if absent")
    pretrained.add_argument(
        "--tile", type=int, help="pixels on a side of the tiles in which large pictures are decoded"
    )


def _add_folder(group: Any) -> None:
    group.add_argument("--pretrained", help="a folder of diffusers, or a single file")
    group.add_argument("--like", help=LIKE)
    group.add_argument("--variant", help="of the folder's weights, such as fp16")
    group.add_argument("--dtype", choices=DTYPES, help="of the parameters; float32 if absent")


def _add_which(command: Any) -> None:
    command.add_argument("--step", help="the step of a checkpoint, or best; the newest if absent")
    command.add_argument(
        "--ema", help="the number of an average of the parameters, or none; the first if absent"
    )


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser("compare", allow_abbrev=False, help="compare solvers")
    compare.add_argument("--problem", help="an exact problem: mixture2d, mixture64d, ...")
    compare.add_argument("--sde", help="the exact problem's SDE (vp)")
    compare.add_argument("--workdir", help="a trained run, in place of an exact problem")
    _add_which(compare)
    _add_pretrained(compare)
    compare.add_argument("--prompt", help="the text of the pictures, for --pretrained")
    compare.add_argument("--guidance", type=float, help="its weight, for --pretrained")
    compare.add_argument(
        "--fine", type=int, help="steps of the solution that --pretrained compares with (100)"
    )
    compare.add_argument(
        "--solvers", default="all", help='names, as in "heun,ddim(eta=0.5),solver.json", or all'
    )
    compare.add_argument("--nfe", help="budgets of evaluations (5,10,20,50,100, or 5,10,20)")
    compare.add_argument(
        "--grids",
        help="time grids, as in log_snr,karras (log_snr, or own,karras for --pretrained)",
    )
    compare.add_argument(
        "--denoise-last",
        help="whether the last evaluation denoises: true, false for a step more, or true,false",
    )
    compare.add_argument("--metrics", help="as in wasserstein2,mmd; all that fit if absent")
    compare.add_argument("--num", type=int, help="samples of each row (1000, or 1)")
    compare.add_argument("--seed", type=int, default=0)
    compare.add_argument("--out", required=True, help="the folder of the results; rows there stay")


def _add_fit(commands: Any) -> None:
    fit = commands.add_parser("fit", allow_abbrev=False, help="fit a solver to a model")
    given = fit.add_mutually_exclusive_group(required=True)
    given.add_argument("--workdir", help="a trained run, whose network is fitted to")
    given.add_argument("--problem", help="an exact problem: mixture2d, mixture64d, ...")
    _add_which(fit)
    fit.add_argument("--sde", help="the exact problem's SDE (vp)")
    fit.add_argument("--nfe", type=int, required=True, help="evaluations that a sample takes")
    fit.add_argument("--solver", help="fit only the times of this solver, and no coefficients")
    fit.add_argument("--seconds", type=float, default=90.0, help="the most it takes (90)")
    fit.add_argument("--num", type=int, help="starts to fit on")
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("--out", required=True, help="a .json file, for sample --solver")


def _add_plan(commands: Any) -> None:
    plan = commands.add_parser(
        "plan", allow_abbrev=False, help="tell what a config costs on devices that are not here"
    )
    plan.add_argument("--config", required=True, help="a Python file with get_config()")
    plan.add_argument(
        "--topology",
        required=True,
        help="v5e:4x4, 2xv5e:4x4 (two slices), v5p:4x4x4, v6e:..., v4:..., cpu:8, gpu",
    )
    plan.add_argument("--event", help="the shape of a sample, as in 64,64,3, to plan without data")
    plan.add_argument("--search", action="store_true", help="try what takes less memory")
    plan.add_argument("--json", action="store_true", help="print JSON instead of a table")
    plan.epilog = f"{FIELDS} {PRESET}"


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser(
        "convert", allow_abbrev=False, help="write a model for another library"
    )
    convert.add_argument("source", help="a single file, a pipeline's folder, or a run on one")
    convert.add_argument("--to", required=True, choices=("diffusers", "kohya"), help="the library")
    convert.add_argument("--like", help=LIKE)
    convert.add_argument("--variant", help="of the folder's weights, such as fp16")
    convert.add_argument("--dtype", choices=DTYPES, help="of the weights; as they are if absent")
    _add_which(convert)
    convert.add_argument(
        "--out", required=True, help="a folder, or a .safetensors of adapters, not there yet"
    )


def read_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """{"optim.lr": "3e-4"} from ["--config.optim.lr=3e-4"] or ["--config.optim.lr", "3e-4"]."""
    overrides, rest = {}, list(arguments)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if not flag.startswith("--config.") or not (equals or rest):
            raise ValueError(f"unknown argument {flag!r}; see --help")
        overrides[flag.removeprefix("--config.")] = value if equals else rest.pop(0)
    return overrides
