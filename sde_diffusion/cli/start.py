"""What a run starts from beside its config: stored parameters, and its teacher."""

import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from sde_diffusion import data, distributed, training
from sde_diffusion.cli import run
from sde_diffusion.cli.say import say
from sde_diffusion.config import build, codecs, conditions, flow_maps
from sde_diffusion.config import schema as configs
from sde_diffusion.model import Model
from sde_diffusion.training import init_from

FILE = "init_from.json"


def teacher(
    config: ConfigDict, features: data.Features, codec: codecs.FrozenCodec | None = None
) -> flow_maps.Teacher | None:
    """The model of the run that config.teacher names, guided as its config says, or None.

    `features` are of what the student samples, latents where it has a codec.
    With a range in config.teacher.guidance it is the trained model itself, which the objective
    guides, and with a number it is guided by that weight. Raises
    FileNotFoundError for a folder without a run, and ValueError for a teacher of another SDE,
    shape, range of the data, or condition, or that cannot be guided where it is to be.
    """
    group = config.teacher
    if not group.path:
        return None
    folder = run.folder(group.path, "config.teacher.path")
    theirs = run.read_config(folder, {})
    described = codecs.sampled(run.read_data(folder).features, codec)
    kinds = {
        "an SDE": (build.sde(config), build.sde(theirs)),
        "samples of the shape": (features.event.shape, described.event.shape),
        "the range": (tuple(config.data.range), tuple(theirs.data.range)),
        "the conditions": (conditions.names(config), conditions.names(theirs)),
    }
    for what, (ours, other) in kinds.items():
        if ours != other:
            raise ValueError(
                f"config.teacher.path {group.path}: the teacher has {what} {other}, and the "
                f"student {ours}"
            )
    fixed = flow_maps.fixed_weight(config)
    if fixed is not None:
        theirs = configs.override(theirs, {"sampling.guidance.weight": str(fixed)})
    by_weight = flow_maps.weights(config) is not None
    if by_weight or fixed not in (None, 1.0):
        build.null_for_guidance(theirs)
    step, ema = (None if value is None else str(value) for value in (group.step, group.ema))
    found = run.restore_params(
        folder, theirs, described, step=step, ema="none" if ema is None else ema
    )

    def made(params: Any) -> Model:
        trained = build.model(theirs, params)
        return trained if by_weight else build.guided(theirs, trained)

    return flow_maps.Teacher(made, found.params)


def tell(workdir: epath.Path, stored: init_from.Stored, plan: init_from.Plan) -> None:
    """Print what is taken, left and missing, and write the full lists to the run's folder."""
    lists = {name: list(names) for name, names in plan._asdict().items()}
    if distributed.is_first_process():
        text = json.dumps({"from": stored.name, **lists}, indent=1) + "\n"
        training.write_whole(workdir / FILE, text)
    total = len(plan.take) + len(plan.missing) + len(plan.unwanted)
    say(f"{len(plan.take)} of {total} parameters are those of {stored.name} ({FILE} lists them)")
    for names, what in (
        (plan.missing, "are not there and start anew"),
        (plan.unwanted, "start anew, as init_from.names says"),
        (plan.left, "of those there are left"),
    ):
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            say(f"{len(names)} {what}: {', '.join(names[:10])}{more}")
