"""Pictures judged by their captions: what `evaluate` reports of a network that reads a text.

- retrieval: the share of pictures that fit their own caption better than all others of
  config.eval.captions, to a judge that was trained on the run's data alone (see `cli.judge`);
- the Frechet distance in the judge's features, beside that of two halves of the real pictures;
- the nearest picture of training: whether it is one of the caption's own.

They are reported of the run's data, and of each part of its source in config.eval.parts, such as
drawings that were held out of training.
"""

import io
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from sde_diffusion import data, metrics
from sde_diffusion.cli import run, texts
from sde_diffusion.cli.judge import Captioned, Judge, of_run
from sde_diffusion.cli.real import images, real_rows
from sde_diffusion.config import build, codecs
from sde_diffusion.config import schema as configs
from sde_diffusion.config.codecs import FrozenCodec
from sde_diffusion.metrics.neighbours import nearest


class Part(NamedTuple):
    """A part of the data.

    name: of the part; "data" where the source has no parts.
    source: where the records are.
    rows: int [N], records of the source; of several with one picture and text the first.
    captioned: their pictures and texts.
    chosen: int [n], those of the N whose captions pictures are drawn for.
    """

    name: str
    source: data.Source
    rows: np.ndarray
    captioned: Captioned
    chosen: np.ndarray


class Task(NamedTuple):
    """What is judged: the run's data first, then the other parts; and what the judge learns."""

    parts: tuple[Part, ...]
    training: Captioned


def once(pictures: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """The rows of pictures [N, ...] with a text, each picture with its text once: int [n]."""
    first: dict[tuple[str, bytes], int] = {}
    for row, text in enumerate(texts):
        if str(text).strip():
            first.setdefault((str(text), pictures[row].tobytes()), row)
    return np.fromiter(first.values(), int, len(first))


def part_of(
    config: ConfigDict,
    source: data.Source,
    rows: np.ndarray,
    pictures: np.ndarray,
    texts: np.ndarray,
    coder: FrozenCodec | None,
) -> Part:
    """The part of the data whose records `rows` have these pictures and texts, each once."""
    ends = codecs.shown(source.features, coder).event.range
    captioned = Captioned(pictures, tuple(map(str, texts)), ends)
    chosen = np.random.default_rng(config.eval.seed).permutation(len(rows))[: config.eval.num]
    name = config.data.source.get("part", "data")
    return Part(name, source, rows, captioned, chosen)


def task_of(
    config: ConfigDict, workdir: epath.Path, own: Part, coder: FrozenCodec | None
) -> Task | str:
    """What is judged beside the run's data, or why nothing is.

    Raises ValueError for parts that the source does not have, or too few captions for these.
    """
    of_part = {"data.prior.name": "none"}
    others = tuple(
        read(configs.override(config, of_part | {"data.source.part": name}), workdir, coder)
        for name in config.eval.parts
        if name != own.name
    )
    theirs = run.with_words(workdir, run.read_config(workdir, {}))
    training = own
    if theirs.data != config.data:
        try:
            training = read(theirs, workdir, coder)
        except (OSError, ValueError) as error:
            return f"the judge learns from the data of training, which cannot be read ({error})"
    task = Task((own, *others), training.captioned)
    if not all(len(part.rows) for part in task.parts):
        return "no record of the data, or of a part, has a text"
    few = min(len({*part.captioned.texts, *task.training.texts}) for part in task.parts)
    if few >= config.eval.captions:
        return task
    reason = f"config.eval.captions is {config.eval.captions}, and the data have {few} captions"
    if config.eval.parts:
        raise ValueError(reason)
    return reason


def read(config: ConfigDict, workdir: epath.Path, coder: FrozenCodec | None) -> Part:
    """The part of the data that config.data names."""
    source = texts.of_source(config, build.source(config), workdir).source
    used = data.select(source, {*build.record_names(config, source.features), "text"})
    rows = real_rows(used, config.eval.data, config.eval.seed)
    real = data.take(used, rows)
    pictures = images(config, real, source.features, coder)
    kept = once(pictures, real["text"])
    return part_of(config, source, rows[kept], pictures[kept], real["text"][kept], coder)


def judged(
    config: ConfigDict, workdir: epath.Path, task: Task, drawn: Sequence[np.ndarray]
) -> dict[str, dict[str, Any]]:
    """{part: its figures} for the pictures drawn for the chosen captions of each part.

    They are also written into the run's folder, with their captions, and whether each was found.
    """
    judge = of_run(workdir, task.training, config.eval.judge_steps)
    report = {}
    for part, x in zip(task.parts, drawn, strict=True):
        report[part.name], found = figures(judge, part, x, task.training, config)
        text = np.array([part.captioned.texts[i] for i in part.chosen])
        buffer = io.BytesIO()
        np.savez_compressed(buffer, image=x, text=text, found=found)
        (workdir / f"captions_{part.name}.npz").write_bytes(buffer.getvalue())
    return report


def figures(
    judge: Judge, part: Part, x: np.ndarray, training: Captioned, config: ConfigDict
) -> tuple[dict[str, Any], np.ndarray]:
    """The figures of pictures x [n, H, W, C] of a part's chosen captions, and which are found."""
    seed, captioned = config.eval.seed, part.captioned
    real = captioned.pictures[part.chosen]
    captions = tuple(dict.fromkeys(captioned.texts))
    number = {text: i for i, text in enumerate(captions)}
    sought = {
        "own": np.array([number[captioned.texts[i]] for i in part.chosen]),
        "among": config.eval.captions,
        "seed": seed,
    }
    if len(captions) < config.eval.captions:
        further = tuple(dict.fromkeys(text for text in training.texts if text not in number))
        sought["others"] = judge.captions(further)
    known, vectors, of_real = judge.captions(captions), judge.pictures(x), judge.pictures(real)
    found = metrics.is_found(vectors, known, **sought)
    report = {
        "captions": len(x),
        "among": config.eval.captions,
        **_share("retrieval", found),
        **_share("retrieval_of_real", metrics.is_found(of_real, known, **sought)),
    }
    if len(x) >= 4:
        report |= {
            "frechet": metrics.frechet_between_halves(of_real, seed, samples=vectors),
            "frechet_halves": metrics.frechet_between_halves(of_real, seed),
            "frechet_of": len(x) // 2,
        }
    own, to_training = _distances(part, x, training)
    report |= {
        "distance_to_own": float(np.median(own)),
        "distance_to_training": float(np.median(to_training)),
        **_share("nearest_is_own", own <= to_training * (1 + 1e-5)),
    }
    return report, found


def _share(name: str, true: np.ndarray) -> dict[str, Any]:
    value, low, high = metrics.share(true)
    return {name: value, f"{name}_interval": [low, high]}


def _distances(part: Part, x: np.ndarray, training: Captioned) -> tuple[np.ndarray, np.ndarray]:
    """From each picture to the nearest of its caption, and to the nearest of training: [n] each.

    The root of the mean squared difference, in parts of the range.
    """
    low, high = training.range

    def flat(pictures: np.ndarray) -> np.ndarray:
        each = (pictures.astype(np.float32) - low) / (high - low)
        return each.reshape(len(each), -1) / np.sqrt(each[0].size, dtype=np.float32)

    rows = defaultdict(list)
    for row, text in enumerate(part.captioned.texts):
        rows[text].append(row)
    made, of_part = flat(x), part.captioned
    own = [
        np.linalg.norm(flat(of_part.pictures[rows[of_part.texts[i]]]) - picture, axis=1).min()
        for i, picture in zip(part.chosen, made, strict=True)
    ]
    return np.array(own), nearest(made, flat(training.pictures))
