"""The command distill: a network that samples in a few evaluations, from a trained one."""

from argparse import Namespace

from ml_collections import ConfigDict

from sde_diffusion.cli import distill_pretrained, run
from sde_diffusion.cli.train import train_in
from sde_diffusion.config import autoencoders
from sde_diffusion.config import schema as configs

# The student's steps of training for each one of the teacher's.
SHARE = 0.35
# Objectives that learn only the map to the data, so that samples are renoised between the steps.
TO_THE_DATA = ("consistency", "scm")
# Options that only a pretrained teacher takes.
OF_PRETRAINED = ("like", "variant", "prompt", "prompts", "size")
# The student's steps of sampling.
STEPS = 1


def distill(args: Namespace, overrides: dict[str, str]) -> None:
    """Train a student of a run or of a pretrained folder, or resume the training in --out."""
    if (args.workdir is None) == (args.pretrained is None):
        raise ValueError("give --workdir, the run that teaches, or --pretrained, a folder: one")
    guidance = None if args.guidance is None else _weights(args.guidance)
    if args.pretrained is not None:
        distill_pretrained.distill(args, guidance, overrides)
        return
    given = [name for name in OF_PRETRAINED if getattr(args, name) is not None]
    if given:
        raise ValueError(f"--{given[0]} is for --pretrained: a run has its own data")
    teacher, out = run.folder(args.workdir), run.folder(args.out, "--out")
    if teacher.resolve() == out.resolve():
        raise ValueError(f"--out {args.out} is the teacher's folder: choose another one")
    theirs = run.read_config(teacher, {})
    autoencoders.require_denoiser(theirs, f"--workdir {args.workdir}")
    if theirs.flow_map.name != "none":
        raise ValueError(
            f"--workdir {args.workdir} is a flow map itself: name its teacher's folder"
        )
    objective = args.objective or "trajectory"
    config = student(theirs, args.workdir, objective, guidance, args.lora)
    train_in(out, configs.override(config, overrides), args.overwrite)


def _weights(text: str) -> float | tuple[float, float]:
    try:
        weights = tuple(float(end) for end in text.split(","))
        low, high = weights if len(weights) == 2 else weights * 2
    except ValueError:
        message = f"--guidance of distill is written as W or LOW,HIGH, got {text!r}"
        raise ValueError(message) from None
    return low if len(weights) == 1 else (low, high)


def student(
    theirs: ConfigDict,
    path: str,
    objective: str,
    guidance: float | tuple[float, float] | None = None,
    rank: int | None = None,
) -> ConfigDict:
    """The config of a student of the run with that config, which begins as its teacher.

    The student is the same network with a second time, and takes SHARE of the teacher's steps of
    training. With the objective "trajectory" it learns from samples as the teacher is sampled:
    by its solver, on its grid, and is sampled on a grid of the same kind.

    With a range of weights the teacher is guided by all of these, and no condition is dropped,
    since the student is guided by its weight alone. With one weight it is guided by that, and
    without, as it is sampled.

    With a rank the student is adapters of the teacher's network.
    """
    config = configs.from_json(configs.to_json(theirs)).unlock()
    config.flow_map = configs.choice("flow_map", objective)
    config.teacher.path = config.init_from.path = path
    config.lora = configs.default().lora  # the student begins with the teacher's adapters merged
    config.lora.rank = rank
    config.init_from.groups = ()
    ema = 0 if theirs.optim.ema_rates else None
    config.teacher.ema = config.init_from.ema = ema
    steps = max(1, round(SHARE * theirs.training.steps))
    config.training.steps = steps
    config.optim.warmup = min(theirs.optim.warmup, steps // 4)
    config.sampling.grid = configs.choice("sampling.grid", "karras")
    if objective == "trajectory":
        config.sampling.grid = theirs.sampling.grid
        config.flow_map.solver = _written(theirs.sampling.solver)
        config.flow_map.grid = _written(theirs.sampling.grid)
    gamma = 1.0 if objective in TO_THE_DATA else 0.0
    config.sampling.solver = configs.choice("sampling.solver", "flow_map", gamma=gamma)
    config.sampling.steps = STEPS
    config.sampling.guidance.update(weight=1.0, interval=None)  # the teacher is guided
    config.teacher.guidance = guidance
    if isinstance(guidance, tuple):
        config.sampling.guidance.weight = min(max(1.0, guidance[0]), guidance[1])
        for condition in config.conditions.values():
            condition.drop = 0.0
    return config.lock()


def _written(group: ConfigDict) -> str:
    """A choice with its fields as on a command line, such as "karras(rho=2.4)"."""
    fields = ", ".join(f"{key}={value!r}" for key, value in group.items() if key != "name")
    return f"{group.name}({fields})" if fields else group.name
