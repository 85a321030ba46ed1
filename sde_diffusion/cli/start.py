"""What a run starts from beside its config: stored parameters, and its teacher."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from sde_diffusion import data, distributed, training
from sde_diffusion.cli import run
from sde_diffusion.cli.say import say
from sde_diffusion.config import build, codecs, conditions, flow_maps
from sde_diffusion.config import schema as configs
from sde_diffusion.model import Model
from sde_diffusion.training import init_from
from sde_diffusion.training.frozen import fingerprints
from sde_diffusion.training.state import TrainState
from sde_diffusion.tree_names import named

FILE = "init_from.json"
# Of the parameters that were taken, in that file.
MARK = "fingerprint"


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
    model = _guided(config, theirs)
    step, ema = (None if value is None else str(value) for value in (group.step, group.ema))
    found = run.restore_params(
        folder, theirs, described, step=step, ema="none" if ema is None else ema
    )
    return flow_maps.Teacher(model, found.params)


def planned_teacher(config: ConfigDict, features: data.Features) -> flow_maps.Teacher | None:
    """The teacher for a plan: its parameters' shapes alone, which no run needs to have.

    Where config.teacher.path names no run of this machine, the teacher's network is the student's,
    without what a flow map is told beside it. None where the objective has no teacher.
    """
    path, needed = config.teacher.path, config.flow_map.name in flow_maps.NEED_TEACHER
    if not flow_maps.is_flow_map(config) or not (path or needed):
        return None
    if path and (run.folder(path, "config.teacher.path") / run.CONFIG).is_file():
        theirs = run.read_config(run.folder(path, "config.teacher.path"), {})
    else:
        theirs = configs.from_json(configs.to_json(config)).unlock()
        theirs.flow_map = configs.choice("flow_map", "none")
        theirs.teacher = configs.default().teacher
        theirs = theirs.lock()
    init = build.init_params(theirs, features.event.shape)
    return flow_maps.Teacher(_guided(config, theirs), jax.eval_shape(init, jax.random.key(0)))


def _guided(config: ConfigDict, theirs: ConfigDict) -> Callable[[Any], Model]:
    """The teacher's model of its parameters, guided as the student's config says.

    Raises ValueError where it cannot be guided and is to be.
    """
    fixed = flow_maps.fixed_weight(config)
    if fixed is not None:
        theirs = configs.override(theirs, {"sampling.guidance.weight": str(fixed)})
    by_weight = flow_maps.weights(config) is not None
    if by_weight or fixed not in (None, 1.0):
        build.null_for_guidance(theirs)

    def model(params: Any) -> Model:
        trained = build.model(theirs, params)
        return trained if by_weight else build.guided(theirs, trained)

    return model


def enough(source: data.Source, batch_size: int) -> data.Source:
    """The source, several times where a network is fine-tuned on fewer records than a batch has.

    Each of the hosts reads a part of them.
    """
    times = -(-batch_size // len(source))
    if times == 1:
        return source
    say(
        f"the {len(source)} samples of {source.name} are fewer than a batch: each is there {times}x"
    )
    return data.Rows(source, np.tile(np.arange(len(source)), times))


def take_over(
    state: TrainState, workdir: epath.Path, stored: init_from.Stored, plan: init_from.Plan
) -> TrainState:
    """The first state, with the parameters that are taken; a file of the run lists and marks them.

    So the run goes on with the same base only, wherever that is then.
    """
    made = init_from.start(state, stored, plan.take)
    mark = _mark({name: leaf for name, leaf in named(made.params).items() if name in plan.take})
    if distributed.is_first_process():
        lists = {name: list(names) for name, names in plan._asdict().items()}
        text = json.dumps({"from": stored.name, MARK: mark, **lists}, indent=1) + "\n"
        training.write_whole(workdir / FILE, text)
    return made


def require_taken_over(
    workdir: epath.Path, stored: init_from.Stored, shapes: Any, names: str
) -> None:
    """Raise ValueError unless the run in `workdir` began from these parameters.

    `shapes` are those of the network's parameters, with shardings.
    """
    file = workdir / FILE
    theirs = json.loads(file.read_text()).get(MARK, "unknown") if file.is_file() else "unknown"
    take = init_from.plan(stored, shapes, names).take
    ours = _mark(stored.read({name: leaf for name, leaf in named(shapes).items() if name in take}))
    if ours != theirs:
        raise ValueError(
            f"config.init_from.path: {workdir} began from other parameters than {stored.name}: "
            f"their fingerprint is {theirs}, and here it is {ours}"
        )


def _mark(taken: dict[str, Any]) -> str:
    return fingerprints({"taken": taken})["taken"]


def tell(stored: init_from.Stored, plan: init_from.Plan) -> None:
    """Print what is taken, left and missing."""
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
