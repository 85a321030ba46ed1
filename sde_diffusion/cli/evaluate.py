"""The command evaluate: samples of a trained network beside the data."""

import json
import time
from argparse import Namespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from sde_diffusion import data, distributed, metrics, noise
from sde_diffusion.cli import asked, captions, codec, draw, reconstructions, run, texts
from sde_diffusion.cli.options import sampling_options
from sde_diffusion.cli.real import images, real_rows
from sde_diffusion.cli.say import say
from sde_diffusion.comparison.measure import fine_grid
from sde_diffusion.config import autoencoders, build, codecs, conditions, judging
from sde_diffusion.config.codecs import FrozenCodec

# Of the likelihood's solver.
STEPS = 20


def evaluate(args: Namespace, overrides: dict[str, str]) -> None:
    """Compare samples of a trained network with the data, and write evaluation.json."""
    workdir = run.folder(args.workdir)
    config = run.with_words(workdir, run.read_config(workdir, sampling_options(args) | overrides))
    embedded = texts.of_source(config, build.source(config), workdir)
    source, no_text = embedded.source, embedded.no_text
    if autoencoders.is_autoencoder(config):
        _evaluate_autoencoder(args, workdir, config, source)
        return
    coder = codec.of_run(workdir, config)
    features = codecs.sampled(source.features, coder)
    build.solver(config), build.grid(config), build.mesh(config)
    num, seed = config.eval.num, noise.check_seed(config.eval.seed)
    if num < 1:
        raise ValueError(f"config.eval.num must be at least 1, got {num}")
    compared = _compared(config, workdir, source, coder)
    real, events, label = compared.real, compared.events, compared.real.get("label")
    named = _named(config, source, compared.task, num, seed)
    under, y = draw.Under(conditions.cond(named), no_text=no_text), named.get("label")
    missing = metrics.missing(events, label, num)
    for name, reason in (missing | compared.left_out).items():
        say(f"{name} is left out: {reason}")
    run.enable_cache()
    params, step = run.restore_params(workdir, config, features, step=args.step, ema=args.ema)

    first = min(num, config.sampling.batch_size)
    draw.draw(config, params, features, first, seed=seed, under=under, coder=coder)  # compiles
    began = time.perf_counter()
    x, nfe = draw.draw(
        config, params, features, num, seed=seed, under=under, progress=True, coder=coder
    )
    seconds = time.perf_counter() - began
    drawn: list[np.ndarray] = []
    if compared.task is not None:
        drawn = _of_parts(config, params, features, compared.task, x, no_text, coder)
    hidden = not distributed.is_first_process()
    stages = 2 + len(metrics.METRICS.keys() - missing.keys())
    with tqdm(total=stages, desc="comparing with the data", disable=hidden) as bar:

        def progress(stage: str) -> None:
            bar.set_postfix_str(stage)
            bar.update()

        progress("bits per dimension")
        bits = bits_of(config, params, real, features, seed)
        if not distributed.is_first_process():
            return
        low, high = codecs.shown(features, coder).event.range
        made = metrics.evaluate(
            x, events, y=y, labels=label, low=low, high=high, seed=seed, progress=progress
        )
    report = {
        "step": step,
        "samples": num,
        "data": len(events),
        "solver": config.sampling.solver.name,
        "evaluations": nfe,
        "sampling_seconds": seconds,
        **made.figures,
        **bits.figures,
        "left_out": made.left_out | bits.left_out | compared.left_out,
    }
    if bits.figures:
        count = min(config.eval.bits, len(events))
        report["bits_per_dim_of"] = f"{count} training data, uniformly dequantized"
    if coder is not None and codecs.is_latent(source.features):
        report["data_are"] = "the latents' means, decoded"
    if compared.task is not None:
        report["guidance"] = float(config.sampling.guidance.weight)
        report["by_caption"] = captions.judged(config, workdir, compared.task, drawn)
    _write(workdir, report)


class Compared(NamedTuple):
    """Real records that samples are compared with, and their events; images, if they are latents.

    task: what is judged by captions, or None.
    left_out: {"retrieval": reason} where a network that reads a text is not judged.
    """

    real: data.Batch
    events: np.ndarray
    task: captions.Task | None
    left_out: dict[str, str]


def _compared(
    config: ConfigDict, workdir: epath.Path, source: data.Source, coder: FrozenCodec | None
) -> Compared:
    """What samples are compared with. Records are there once where they are judged by captions."""
    found = [*judging.problems(config, source.features)]
    if found:
        raise ValueError("; ".join(found))
    reason = judging.why_not(config, source.features)
    names = build.record_names(config, source.features)
    if not reason:
        names = list(dict.fromkeys([*names, "text"]))
    used = data.select(source, names)
    rows = real_rows(used, config.eval.data, config.eval.seed)
    real = data.take(used, rows)
    events = images(config, real, source.features, coder)
    if reason:
        told = judging.reads_text(config) and config.eval.captions
        return Compared(real, events, None, {"retrieval": reason} if told else {})
    kept = captions.once(events, real["text"])
    part = captions.part_of(config, source, rows[kept], events[kept], real["text"][kept], coder)
    task = captions.task_of(config, workdir, part, coder)
    if isinstance(task, str):
        return Compared(real, events, None, {"retrieval": task})
    return Compared({name: each[kept] for name, each in real.items()}, events[kept], task, {})


def _named(
    config: ConfigDict, source: data.Source, task: captions.Task | None, num: int, seed: int
) -> asked.Named:
    """The conditions of the samples: of the captions that are judged, or as in the data."""
    if task is None:
        return asked.as_in_the_data(config, source, num, seed)
    rows = task.parts[0].rows[task.parts[0].chosen]
    return asked.of_rows(config, source, np.resize(rows, num), seed)


def _of_parts(
    config: ConfigDict,
    params: Any,
    features: data.Features,
    task: captions.Task,
    x: np.ndarray,
    no_text: Any,
    coder: FrozenCodec | None,
) -> list[np.ndarray]:
    """Pictures of the chosen captions of each part; those of the first are among the samples x."""
    own, *others = task.parts
    drawn, seed = [x[: len(own.chosen)]], config.eval.seed
    if not others:
        return drawn
    each = [asked.of_rows(config, part.source, part.rows[part.chosen], seed) for part in others]
    named = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
    under = draw.Under(conditions.cond(named), no_text=no_text)
    sizes = [len(part.chosen) for part in others]
    made, _ = draw.draw(
        config, params, features, sum(sizes), seed=seed, under=under, progress=True, coder=coder
    )
    return drawn + np.split(made, np.cumsum(sizes)[:-1])


def _evaluate_autoencoder(
    args: Namespace, workdir: epath.Path, config: ConfigDict, source: data.Source
) -> None:
    """Compare an autoencoder's reconstructions with their images, and write evaluation.json."""
    features, seed = source.features, noise.check_seed(config.eval.seed)
    used = data.select(source, [features.event_name])
    real = data.take(used, real_rows(used, config.eval.data, seed))[features.event_name]
    run.enable_cache()
    params, step = run.restore_params(workdir, config, features, step=args.step, ema=args.ema)
    found = reconstructions.evaluate(config, source, params, real, seed)
    if distributed.is_first_process():
        _write(workdir, {"step": step, "data": len(real), **found, "left_out": {}})


def _write(workdir: epath.Path, report: dict[str, Any]) -> None:
    (workdir / "evaluation.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    print_table(report)


def bits_of(
    config: ConfigDict, params: Any, real: data.Batch, features: data.Features, seed: int
) -> metrics.Report:
    """Bits/dim of config.eval.bits of the real data, which the run was trained on.

    They are dequantized with uniform noise, so that the figure bounds the bits/dim of the whole
    numbers themselves from above.
    """
    event = features.event
    if codecs.is_latent(features):
        return metrics.Report({}, {"bits_per_dim": "the model is one of latents"})
    if event.dtype != "uint8":
        reason = f"the data are of {event.dtype}, not whole numbers"
        return metrics.Report({}, {"bits_per_dim": reason})
    rows = np.random.default_rng(seed).permutation(len(real[features.event_name]))
    chosen = {name: values[rows[: config.eval.bits]] for name, values in real.items()}
    key_noise, key_probes = jax.random.split(noise.key(seed))
    x = jnp.asarray(chosen[features.event_name])
    keys = noise.sample_keys(key_noise, len(x))
    x0 = build.scaling(config, features).scale(data.dequantize(keys, x, *event.range))
    model = build.model(config, params)
    (lowest, highest), (low, high) = event.range, config.data.range
    mean, error = metrics.bits_per_dim(
        key_probes,
        model,
        x0,
        cond=conditions.cond(conditions.of_records(config, features)(keys, chosen, x0)),
        grid=fine_grid(model.sde, STEPS),
        levels=int(highest - lowest) + 1,
        scale=high - low,
    )
    figures = {"bits_per_dim": mean, "bits_per_dim_standard_error": error}
    return metrics.finite(figures, {})


def print_table(report: dict[str, Any]) -> None:
    left_out, by_caption = report.pop("left_out"), report.pop("by_caption", {})
    _print_rows(report | {name: f"left out: {reason}" for name, reason in left_out.items()})
    for part, figures in by_caption.items():
        print(f"\nby the captions of {part}")
        _print_rows(figures)


def _print_rows(figures: dict[str, Any]) -> None:
    """A row for each figure; its interval beside it."""
    shown = {name: value for name, value in figures.items() if not name.endswith("_interval")}
    width = max(map(len, shown))
    for name, value in shown.items():
        text = f"{value:.4g}" if isinstance(value, float) else value
        if interval := figures.get(f"{name}_interval"):
            text = "{:.1%}  ({:.1%} to {:.1%})".format(value, *interval)
        print(f"{name:<{width}}  {text}")
