"""Texts as embeddings, by the frozen encoders of the pretrained folder that config.text names.

Each text of a data set is encoded once, when a run begins, and a record has the embeddings beside
its picture. An empty text has the embeddings of no text, which also take the place of a text that
is dropped, and are what guidance goes away from.

A run keeps what its encoders make of no text and of PROBE. So it goes on with the same numbers on
other devices, and other encoders are refused.
"""

import io
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from sde_diffusion import data
from sde_diffusion.cli.say import say
from sde_diffusion.config import conditions, text_encoders
from sde_diffusion.data.sources.latents import TEXTS
from sde_diffusion.pipeline import Size, Text
from sde_diffusion.pretrained.lora_files import encoders_of

BATCH = 16
# Texts of which the embeddings are kept in memory; more are for the command encode.
MOST = 5000
PROBE = "a photograph of a cat"
# Embeddings by the same encoders differ by rounding, up to bfloat16's on a TPU.
TOLERANCE = 0.03

Known = dict[str, np.ndarray]
"""The embeddings by name of no text and of PROBE, [2, ...] each."""


class Embedded(NamedTuple):
    """A source whose records have embeddings of their texts, and what is known of the encoders.

    tokens: those of no text, where the records have tokens, as the network encodes them itself.
    """

    source: data.Source
    known: Known | None
    tokens: dict[str, np.ndarray] | None = None

    @property
    def no_text(self) -> dict[str, np.ndarray] | None:
        """What the network is told of no text, of one sample."""
        if self.known is None or self.tokens is not None:
            return self.tokens
        return _of_first(self.known)


def of_source(
    config: ConfigDict, source: data.Source, workdir: epath.Path | None = None
) -> Embedded:
    """The source with the embeddings that the network takes.

    The source itself where the network takes none, or where its records have them already: then
    the encoders are those of the folder of latents. They are to be those of the run in `workdir`.

    Raises ValueError for records without a text, where there are too many texts, and for other
    encoders than the run's.
    """
    made = _of_source(config, source)
    if workdir is None or made.known is None:
        return made
    return made._replace(known=as_in(workdir, made.known))


def _of_source(config: ConfigDict, source: data.Source) -> Embedded:
    if not conditions.reads_text(config):
        return Embedded(source, None)
    fields = conditions.entries(config)
    if fields.get("text") in source.features:
        return Embedded(source, _stored(epath.Path(config.data.source.get("path", ""))))
    if not config.text.path:
        return Embedded(source, None)  # which `check` refuses
    if "text" not in source.features:
        raise ValueError(
            f"config.text.path: the records of {source.name} have no text, only "
            f"{', '.join(source.features)}; captions of a folder are read with "
            "--config.data.source.captions=txt"
        )
    return _embedded(config, source, fields)


def _embedded(config: ConfigDict, source: data.Source, fields: dict[str, str]) -> Embedded:
    """The source with what the network is told of its texts, by the encoders of a folder.

    `fields` are the entries of a record by the name of the condition.
    """
    texts = [str(source[row]["text"]) for row in range(len(source))]
    unique, as_tokens = sorted(set(texts)), text_encoders.trained(config)
    left = text_encoders.outside(config) if as_tokens else ()
    only_tokens = as_tokens and not left
    if len(unique) > MOST and not only_tokens:
        raise ValueError(
            f"{source.name} has {len(unique):,} texts, of which at most {MOST:,} are encoded when "
            "a run begins: encode them before, with sde-diffusion encode --text"
        )
    encoder, size = read(config.text.path, config.data.tokens), pixels(source.features)
    size_of_batch = len(unique) if only_tokens else BATCH
    parts = [
        told(config, encoder, unique[first : first + size_of_batch], size)
        for first in range(0, len(unique), size_of_batch)
    ]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    named = {field: arrays[name] for name, field in fields.items() if name in arrays}
    features = {field: data.Feature(a.shape[1:], str(a.dtype)) for field, a in named.items()}
    number = {text: row for row, text in enumerate(unique)}
    rows = np.array([number[text] for text in texts])
    if "" in number:
        say(f"{texts.count('')} of {len(texts)} texts are empty: they stand for no text")
    verb = "tokenized" if as_tokens else "encoded"
    and_left = "".join(f", and encoded by its {part}" for part in left)
    say(f"{len(unique)} texts of {source.name} are {verb} by {config.text.path}{and_left}")
    beside, probed = data.Beside(source, named, features, rows), known(encoder, size)
    if not as_tokens:
        return Embedded(beside, probed)
    return Embedded(beside, probed, of_no_text(config, encoder, probed, size))


def told(
    config: ConfigDict, encoder: Text, texts: Sequence[str], size: Size
) -> dict[str, np.ndarray]:
    """What the network is told of texts, by name, [len(texts), ...]: embeddings, or tokens."""
    if not text_encoders.trained(config):
        return encode(encoder, texts, size)
    given = [text if text.strip() else "" for text in texts]
    rest = {
        name: np.repeat(array, len(given), axis=0)
        for name, array in encode(encoder, [""], size).items()
        if name not in text_encoders.MADE
    }
    encoders = {part: each for part, (_, each) in encoders_of(encoder).items()}
    left = text_encoders.outside(config)
    states = {part: np.asarray(encoders[part](given), np.float32) for part in left}
    tokens = {part: each.tokenizer(given) for part, each in encoders.items() if part not in left}
    return (
        rest
        | {f"{text_encoders.STATES}{part}": array for part, array in states.items()}
        | {f"{text_encoders.TOKENS}{part}": array for part, array in tokens.items()}
    )


def read(path: str, tokens: int | None, flag: str = "config.text.path", **options: Any) -> Text:
    """The text encoders of a pretrained folder; what is wrong begins with `flag`.

    `tokens` is how many a text has where the folder does not say it, config.data.tokens. The
    options are those of `part.read_part`.
    """
    from sde_diffusion import pretrained

    try:
        return pretrained.load_text(path, tokens=tokens, **options)
    except (OSError, ValueError) as error:
        raise type(error)(f"{flag}: {error}{_of_package(path)}") from error


def _of_package(path: str) -> str:
    """What to say more of a path among the Python packages whose package is not installed."""
    packages = Path(sysconfig.get_path("purelib"))
    if not Path(path).is_relative_to(packages):
        return ""
    name = Path(path).relative_to(packages).parts[0]
    if (packages / name).exists():
        return ""
    return f"; the package {name} is not installed, see the first lines of the config's file"


def encode(encoder: Text, texts: Sequence[str], size: Size) -> dict[str, np.ndarray]:
    """The embeddings of texts by name, float32 [len(texts), ...]; an empty one is no text."""
    made = _arrays(encoder(list(texts), len(texts), size))
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty:
        for name, one in _arrays(encoder(None, 1, size)).items():
            made[name] = made[name].copy()
            made[name][empty] = one
    return made


def known(encoder: Text, size: Size) -> Known:
    """What a run keeps of its encoders."""
    return encode(encoder, ["", PROBE], size)


def of_no_text(
    config: ConfigDict, encoder: Text, known: Known, size: Size
) -> dict[str, np.ndarray]:
    """What the network is told of no text, of one sample; `known` is what the run keeps."""
    if not text_encoders.trained(config):
        return _of_first(known)
    return _of_first(told(config, encoder, [""], size))


def _of_first(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array[0] for name, array in arrays.items()}


def as_in(workdir: epath.Path, known: Known) -> Known:
    """What the run in `workdir` keeps, or `known` where it keeps nothing.

    Raises ValueError where it is not of the same encoders.
    """
    kept = _stored(workdir)
    if kept is None:
        return known
    for name in sorted(kept.keys() | known.keys()):
        if not _close(kept.get(name), known.get(name)):
            raise ValueError(
                f"config.text.path: {workdir} was trained with the embeddings of other encoders: "
                f"their {name!r} of {PROBE!r} is not the same"
            )
    return kept


def _close(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    return bool(np.linalg.norm(a - b) <= TOLERANCE * np.linalg.norm(a))


def write(folder: epath.Path, known: Known) -> None:
    """Write what `of_source` and `as_in` read."""
    buffer = io.BytesIO()
    np.savez(buffer, **known)  # type: ignore[arg-type]
    (folder / TEXTS).write_bytes(buffer.getvalue())


def _stored(folder: epath.Path) -> Known | None:
    file = folder / TEXTS
    if not file.is_file():
        return None
    with np.load(io.BytesIO(file.read_bytes())) as arrays:
        return dict(arrays)


def _arrays(cond: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(array, np.float32) for name, array in cond.items()}


def pixels(features: data.Features) -> Size:
    """Height and width of the pictures that texts are encoded for."""
    if features.event_name != "image":
        raise ValueError(
            f"texts are encoded beside images, and these records have {features.event_name}"
        )
    height, width, _ = features.event.shape
    return height, width
