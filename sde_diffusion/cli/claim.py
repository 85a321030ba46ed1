"""A run's folder belongs to one config. Here is which fields may change after a run has begun."""

import dataclasses
import fnmatch
import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from sde_diffusion import distributed, training
from sde_diffusion.cli.run import ADAPTERS, CONFIG, DATA, STUDENT, Described, read_data, to_json
from sde_diffusion.config import optimizers
from sde_diffusion.config import schema as configs
from sde_diffusion.data.sources.latents import TEXTS
from sde_diffusion.pretrained.convert import INDEX

# Fields that may change after a run has begun. They decide where, how fast and how often something
# is done, and how the run is sampled and measured. They do not affect the parameters.
MAY_CHANGE = (
    "mesh.*",
    "training.compiler_options",
    "training.steps_per_call",
    "training.*_every",
    "training.keep*",
    "sampling.*",
    "eval.*",
    "lora.weight",
    # Where the data is stored. That it is the same data is checked by its description.
    "data.source.path",
    "data.source.labels",
    "data.source.data_dir",
    # Where frozen networks, and what a run began from, are stored. That they are the same ones is
    # checked by their fingerprints, and by what the text encoders make of a text.
    "codec.path",
    "init_from.path",
    "teacher.path",
    "text.path",
)
MAY_GROW = "training.steps"
# What a run writes; --overwrite removes these and nothing else.
OWN = (
    *("checkpoints", "samples", "tensorboard", "metrics.jsonl", "loss.png", "samples.png"),
    *("evaluation.json", "init_from.json", "codec.json", TEXTS, DATA, CONFIG),
)
# What a student writes as well. In the folder of another run it is the user's.
OF_A_STUDENT = (STUDENT, ADAPTERS)


def claim(
    workdir: epath.Path, config: ConfigDict, described: Described, *, overwrite: bool
) -> list[str]:
    """Write the config to the folder of its run; returns messages for the user.

    To be called after all other checks of the config, because with `overwrite` it deletes another
    run's files. If there are several processes, the first one does this and the others wait.

    Raises ValueError, before anything is changed, if the folder has a run of another config, or on
    other data.
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
    _require_a_runs_folder(workdir)
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
    # The config comes last: a folder with a config and no description is from an earlier version.
    training.write_whole(workdir / DATA, to_json(described))
    training.write_whole(path, text)
    return lines


def _require_a_runs_folder(workdir: epath.Path) -> None:
    """Raise ValueError where a run would be written over, or into, what is no run."""
    whole = workdir.resolve()
    for folder in (whole, whole.parent):
        if (folder / INDEX).is_file():
            raise ValueError(
                f"workdir {workdir}: {folder} is a pretrained folder, over which no run is written:"
                " choose another folder"
            )
    for name, keys in ((CONFIG, ("sde", "network", "training")), (DATA, ("records", "features"))):
        path = workdir / name
        if path.is_file() and not _has(path.read_text(), keys):
            raise ValueError(
                f"workdir {workdir} is no run's folder: its {name} is something else; choose "
                "another folder"
            )


def _has(text: str, keys: tuple[str, ...]) -> bool:
    """Whether a text is a JSON object with these keys."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and set(keys) <= found.keys()


def begun(workdir: epath.Path) -> bool:
    """Whether training has begun in this folder, so that another config must not replace it."""
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
    taught = configs.from_json((workdir / CONFIG).read_text()).teacher.path
    for name in (*(OF_A_STUDENT if taught else ()), *OWN):
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
        return  # written by an earlier version, without a description of the data
    ours, theirs = _fields(described), _fields(read_data(workdir))
    if "prompts" not in theirs:
        ours.pop("prompts", None)  # an earlier version did not keep them
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
    if described.prompts is not None:
        fields["prompts"] = f"those of fingerprint {described.prompts}"
    for name, feature in described.features.items():
        fields |= {f"{name}.{key}": value for key, value in dataclasses.asdict(feature).items()}
    return fields


def _changes(workdir: epath.Path, ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """A line for each field that changes, and one if the learning rate's schedule changes."""
    lines = configs.differences(ours, theirs)
    lines = [f"from now on, {line}" for line in lines if not line.startswith("mesh.")]
    done = max(steps_of(workdir), default=0)
    rates = [float(optimizers.learning_rate(config)(done)) for config in (ours, theirs)]
    if rates[0] != rates[1]:
        lines.append(
            f"the schedule {ours.optim.schedule!r} ends at training.steps: at step {done} the "
            f"learning rate is now {rates[0]:.3g}, where the shorter schedule has {rates[1]:.3g}"
        )
    return lines
