"""A run's folder is one config's: what may change in a run, and what would make it another one."""

import dataclasses
import fnmatch
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from sde_diffusion import distributed, training
from sde_diffusion.cli.run import CONFIG, DATA, Described, read_data, to_json
from sde_diffusion.config import build
from sde_diffusion.config import schema as configs

# Fields that may change in a run that was begun. They decide where, how fast and how often
# something is done, and how it is sampled and measured, but not what the parameters are after so
# many steps.
MAY_CHANGE = (
    "mesh.*",
    "training.compiler_options",
    "training.steps_per_call",
    "training.*_every",
    "training.keep*",
    "sampling.*",
    "eval.*",
    # Where the data lie. That they are the same is seen by their description.
    "data.source.path",
    "data.source.labels",
    "data.source.data_dir",
)
MAY_GROW = "training.steps"
# What a run writes; --overwrite removes these and nothing else.
OWN = (
    *("checkpoints", "samples", "tensorboard", "metrics.jsonl", "loss.png", "samples.png"),
    *("evaluation.json", "init_from.json", DATA, CONFIG),
)


def claim(
    workdir: epath.Path, config: ConfigDict, described: Described, *, overwrite: bool
) -> list[str]:
    """Make the folder that of this config; returns a line for each thing to say.

    Call it when nothing else can be wrong with the config: with `overwrite` it removes what
    another run left there. Of several processes the first one does it, and the others wait.

    Raises ValueError, before anything is changed, if a run of another config was begun there, or
    one on other data.
    """
    lines = []
    if distributed.is_first_process():
        lines = _claim(workdir, config, described, overwrite)
    distributed.wait_for_all("the folder is claimed")
    return lines


def _claim(
    workdir: epath.Path, config: ConfigDict, described: Described, overwrite: bool
) -> list[str]:
    path, lines = workdir / CONFIG, []
    text = configs.to_json(config)
    if not path.exists() and (workdir / "checkpoints").exists():
        raise ValueError(
            f"workdir {workdir} has checkpoints but no {CONFIG}: choose another folder"
        )
    if path.exists() and overwrite:
        remove(workdir)
    elif path.exists() and begun(workdir):
        theirs = configs.from_json(path.read_text())
        _check_config(workdir, config, theirs)
        _check_data(workdir, described)
        lines = _changes(workdir, config, theirs)
    # In this order: a folder with a config and no description is one of an earlier version.
    training.write_whole(workdir / DATA, to_json(described))
    training.write_whole(path, text)
    return lines


def begun(workdir: epath.Path) -> bool:
    """Whether something was trained there, which another config must not take the place of."""
    if steps_of(workdir):
        return True
    records = workdir / "metrics.jsonl"
    return records.exists() and bool(records.read_text())


def steps_of(workdir: epath.Path) -> list[int]:
    """The steps that have a checkpoint."""
    checkpoints = workdir / "checkpoints"
    if not checkpoints.is_dir():
        return []
    return sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal())


def remove(workdir: epath.Path) -> None:
    """Remove what a run wrote, and nothing else."""
    for name in OWN:
        target = workdir / name
        if target.is_dir():
            target.rmtree()
        else:
            target.unlink(missing_ok=True)


def may_change(field: str) -> bool:
    return any(fnmatch.fnmatchcase(field, pattern) for pattern in MAY_CHANGE)


def _check_config(workdir: epath.Path, ours: ConfigDict, theirs: ConfigDict) -> None:
    wrong = [
        line
        for line in configs.differences(ours, theirs)
        if not may_change(field := line.partition(":")[0])
        and not (field == MAY_GROW and ours.training.steps > theirs.training.steps)
    ]
    if wrong:
        raise ValueError(
            f"workdir {workdir} belongs to another config ({'; '.join(wrong)}): choose another "
            "folder, or start anew with --overwrite"
        )


def _check_data(workdir: epath.Path, described: Described) -> None:
    if not (workdir / DATA).is_file():
        return  # of an earlier version, which did not describe its data
    ours, theirs = _fields(described), _fields(read_data(workdir))
    wrong = [
        f"{key}: {ours.get(key, 'absent')} instead of {theirs.get(key, 'absent')}"
        for key in ours | theirs
        if ours.get(key) != theirs.get(key)
    ]
    if wrong:
        raise ValueError(
            f"workdir {workdir} was trained on other data ({'; '.join(wrong)}): choose another "
            "folder, or start anew with --overwrite"
        )


def _fields(described: Described) -> dict[str, Any]:
    fields: dict[str, Any] = {"records": described.records}
    for name, feature in described.features.items():
        fields |= {f"{name}.{key}": value for key, value in dataclasses.asdict(feature).items()}
    return fields


def _changes(workdir: epath.Path, ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """A line for each field that is another from now on, and what that means for the schedule."""
    lines = configs.differences(ours, theirs)
    lines = [f"from now on, {line}" for line in lines if not line.startswith("mesh.")]
    done = max(steps_of(workdir), default=0)
    rates = [float(build.learning_rate(config)(done)) for config in (ours, theirs)]
    if rates[0] != rates[1]:
        lines.append(
            f"the schedule {ours.optim.schedule!r} ends at training.steps: at step {done} the "
            f"learning rate is now {rates[0]:.3g}, where the shorter schedule has {rates[1]:.3g}"
        )
    return lines
