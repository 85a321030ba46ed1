"""The command encode: the latents of a data set, and the embeddings of its texts, computed once."""

import json
from argparse import Namespace
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from sde_diffusion import data, distributed, training
from sde_diffusion.cli import codec, run, texts, texts_on_devices
from sde_diffusion.cli.say import say
from sde_diffusion.config import build, codecs, conditions, folders
from sde_diffusion.config import schema as configs
from sde_diffusion.config.codecs import FrozenCodec
from sde_diffusion.data.sources.array_record import (
    FEATURES,
    read_arrays,
    shard_name,
    write_features,
    write_shard,
)
from sde_diffusion.pipeline import Text
from sde_diffusion.training.frozen import fingerprints

# Records of one file. A command that is killed does at most so many again.
SHARD = 4096
# Beside the files while they are written: what they are of.
BEGUN = "encoding.json"
DTYPES = ("float32", "float16")


class Task(NamedTuple):
    """What is encoded, how, and where to."""

    codec: FrozenCodec
    source: data.Source
    features: data.Features
    mesh: Any
    batch_size: int
    folder: Path
    encoder: Text | None
    known: texts.Known


def encode(args: Namespace, overrides: dict[str, str]) -> None:
    """Write the mean and deviation of the latents of every record, with its other entries.

    With --text, the embeddings of its text as well.
    """
    if args.dtype not in DTYPES:
        raise ValueError(f"--dtype must be {' or '.join(DTYPES)}, got {args.dtype!r}")
    config, coder, source = _codec_and_source(args, overrides)
    mesh, encoder, known = build.mesh(config), None, {}
    if args.text is not None:
        if "text" not in source.features:
            raise ValueError(
                f"--text {args.text}: the records of {source.name} have no text; captions of a "
                "folder are read with --config.data.source.captions=txt"
            )
        encoder = texts_on_devices.read(args.text, config.data.tokens, mesh, "--text")
        known = texts.known(encoder, texts.pixels(source.features))
    # Once, and not with every batch.
    everywhere = jax.device_put(coder.params, distributed.replicated(mesh))
    task = Task(
        coder._replace(params=everywhere),
        source,
        _features(coder, source.features, args.dtype, known),
        mesh,
        config.training.batch_size,
        Path(args.out),
        encoder,
        known,
    )
    run.enable_cache()
    if distributed.is_first_process():
        _claim(task)
    distributed.wait_for_all("the folder of latents is claimed")
    if (task.folder / FEATURES).is_file():
        say(f"{args.out} holds all {len(source):,} records already")
        return
    _write(task)
    # A pretrained model was trained on latents of its codec's own scale.
    own = args.pretrained is not None
    shift, scale = codecs.shift_and_scale(coder.latent) if own else _measured(task)
    if distributed.is_first_process():
        _finish(task, shift, scale)
    say(
        f"{len(source):,} latents {coder.latent.shape} of {source.name}: {args.out}; "
        + (
            "by the codec's own scale, "
            if own
            else f"their mean is {shift:.4g} and their standard deviation {1 / scale:.4g}, so "
        )
        + f"(z - {shift:.4g}) * {scale:.4g} is what a model sees"
    )


def _codec_and_source(
    args: Namespace, overrides: dict[str, str]
) -> tuple[ConfigDict, FrozenCodec, data.Source]:
    """The config that names the data, the codec of --workdir or --pretrained, and the data."""
    if (args.workdir is None) == (args.pretrained is None):
        raise ValueError("give --workdir, a trained autoencoder, or --pretrained, a folder")
    if args.pretrained is None:
        config = run.read_config(run.folder(args.workdir), overrides)
        group = ConfigDict({"path": args.workdir, "step": args.step, "ema": _ema(args.ema)})
        coder, source = codec.read(group, "--workdir"), build.source(_of_texts(config, args))
        codec.require_images(coder, source, "--workdir")
        return config, coder, source
    for option in ("step", "ema"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option} is for --workdir")
    if not folders.is_pretrained(args.pretrained):
        raise ValueError(f"--pretrained {args.pretrained} is no folder of a pipeline of diffusers")
    config = configs.override(configs.default(), overrides)
    source = build.source(_of_texts(config, args))
    coder = codec.of_source(ConfigDict({"path": args.pretrained}), source, "--pretrained")
    codec.require_images(coder, source, "--pretrained")
    return config, coder, source


def _of_texts(config: ConfigDict, args: Namespace) -> ConfigDict:
    """The config of the data. With --text, data.tokens is for the encoder that reads the texts."""
    return config if args.text is None else configs.override(config, {"data.tokens": "None"})


def _ema(text: str | None) -> int | str | None:
    return 0 if text is None else None if text == "none" else text


def _features(
    coder: FrozenCodec,
    features: data.Features,
    dtype: str,
    known: texts.Known,
) -> data.Features:
    """What the records of latents have, before shift and scale are known."""
    shape = coder.latent.shape
    latent = {
        "mean": codecs.latent_feature(shape, 0.0, 1.0, dtype),
        "deviation": data.Feature(shape, dtype),
    }
    embedded = {
        f"{conditions.EMBEDDED}{name}": data.Feature(array.shape[1:], dtype)
        for name, array in known.items()
    }
    return data.Features(latent | codecs.others(features) | embedded)


def _claim(task: Task) -> None:
    """Make the folder, or go on in one that the same command began; ValueError for another's."""
    told = {
        "codec": task.codec.fingerprint,
        "source": task.source.name,
        "records": len(task.source),
        "shard": SHARD,
        "features": json.loads(task.features.to_json()),
    }
    if task.encoder is not None:
        told["text encoder"] = fingerprints({"texts": task.known})["texts"]
    begun, finished = task.folder / BEGUN, task.folder / FEATURES
    if begun.is_file():
        theirs = json.loads(begun.read_text(encoding="utf-8"))
        wrong = [key for key in told if theirs.get(key) != told[key]]
        if wrong:
            raise ValueError(
                f"--out {task.folder} was begun by a command that differs in its "
                f"{' and '.join(wrong)}: choose another folder"
            )
        return
    if finished.is_file() or (task.folder.is_dir() and any(task.folder.iterdir())):
        raise ValueError(f"--out {task.folder} holds other files: choose another folder")
    task.folder.mkdir(parents=True, exist_ok=True)
    training.write_whole(begun, json.dumps(told, indent=1) + "\n")


def _write(task: Task) -> None:
    """Write the files that are not there yet. Every process encodes, and the first one writes."""
    total = len(task.source)
    num = -(-total // SHARD)
    files = [task.folder / shard_name(k, num) for k in range(num)]
    parts = [np.arange(k * SHARD, min((k + 1) * SHARD, total)) for k in range(num)]
    # All processes agree on what is missing, before the first one writes more.
    missing = [k for k in range(num) if not files[k].is_file()]
    distributed.wait_for_all("the missing latents are known")
    hidden = not distributed.is_first_process()
    with tqdm(total=total, desc="encoding", unit="record", disable=hidden) as bar:
        bar.update(total - sum(len(parts[k]) for k in missing))
        for k in missing:
            records = _records(task, parts[k])
            if distributed.is_first_process():
                write_shard(str(files[k]), records, task.features, bar)
            else:
                for _ in records:
                    pass
    distributed.wait_for_all("the latents are written")


def _records(task: Task, rows: np.ndarray) -> Iterator[data.Record]:
    """The records of latents of these rows, in order."""
    image = task.source.features.event_name
    for batch in _read_ahead(task, codec.batches_of(rows, task.batch_size)):
        moments = codec.encode(task.codec, task.mesh, batch[image])
        kept = {name: batch[name] for name in task.features if name in batch}
        kept |= _embeddings(task, batch)
        for name, values in zip(("mean", "deviation"), moments, strict=True):
            kept[name] = values.astype(task.features[name].dtype)
            if not np.isfinite(kept[name]).all():
                raise ValueError(
                    f"latents of {task.source.name} are not finite in "
                    f"{task.features[name].dtype}: a codec that has not been trained, or --dtype"
                )
        for i in range(len(batch[image])):
            yield {name: values[i] for name, values in kept.items()}


def _embeddings(task: Task, batch: data.Batch) -> data.Batch:
    """The embeddings of the texts of records, as their features say."""
    if task.encoder is None:
        return {}
    given = [str(text) for text in batch["text"]]
    made = texts.encode(task.encoder, given, texts.pixels(task.source.features))
    named = {f"{conditions.EMBEDDED}{name}": array for name, array in made.items()}
    return {name: array.astype(task.features[name].dtype) for name, array in named.items()}


def _read_ahead(task: Task, parts: Iterable[np.ndarray]) -> Iterator[data.Batch]:
    """The records of each part; the next ones are read while these are encoded."""
    with ThreadPoolExecutor(1) as pool:
        following: Future[data.Batch] | None = None
        for rows in parts:
            current, following = following, pool.submit(data.take, task.source, rows)
            if current is not None:
                yield current.result()
        if following is not None:
            yield following.result()


def _measured(task: Task) -> tuple[float, float]:
    """Shift and scale of the latents in the files."""
    rows = codec.measured_rows(len(task.source))
    stored = read_arrays(str(task.folder), task.features)
    batch = data.take(data.select(stored, ("mean", "deviation")), rows)
    return codec.statistics(batch["mean"], batch["deviation"])


def _finish(task: Task, shift: float, scale: float) -> None:
    """Describe the latents; the features last, without which the folder is not whole."""
    told = data.StoredCodec(task.codec.name, task.codec.fingerprint, shift, scale)
    codec.write_stored(task.folder, told)
    if task.encoder is not None:
        texts.write(epath.Path(task.folder), task.known)
    mean = task.features["mean"]
    latent = codecs.latent_feature(mean.shape, shift, scale, mean.dtype)
    write_features(str(task.folder), data.Features({**task.features, "mean": latent}))
