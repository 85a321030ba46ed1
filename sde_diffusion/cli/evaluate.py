"""The command evaluate: samples of a trained network beside the data."""

import json
import time
from argparse import Namespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from sde_diffusion import data, distributed, metrics, noise
from sde_diffusion.cli import asked, codec, draw, reconstructions, run, texts
from sde_diffusion.cli.options import sampling_options
from sde_diffusion.cli.say import say
from sde_diffusion.comparison.measure import fine_grid
from sde_diffusion.config import autoencoders, build, codecs, conditions
from sde_diffusion.config.codecs import FrozenCodec

# Numbers of real data that samples are compared with: 1 GiB of float64.
MOST_NUMBERS = 2**27
# Of the likelihood's solver.
STEPS = 20


def evaluate(args: Namespace, overrides: dict[str, str]) -> None:
    """Compare samples of a trained network with the data, and write evaluation.json."""
    workdir = run.folder(args.workdir)
    config = run.read_config(workdir, sampling_options(args) | overrides)
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
    named = asked.as_in_the_data(config, source, num, seed)
    under, y = draw.Under(conditions.cond(named), no_text=no_text), named.get("label")
    used = data.select(source, build.record_names(config, source.features))
    real = real_data(used, config.eval.data, seed)
    events, label = _images(config, real, source.features, coder), real.get("label")
    missing = metrics.missing(events, label, num)
    for name, reason in missing.items():
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
        "left_out": made.left_out | bits.left_out,
    }
    if bits.figures:
        count = min(config.eval.bits, len(events))
        report["bits_per_dim_of"] = f"{count} training data, uniformly dequantized"
    if coder is not None and codecs.is_latent(source.features):
        report["data_are"] = "the latents' means, decoded"
    _write(workdir, report)


def _evaluate_autoencoder(
    args: Namespace, workdir: epath.Path, config: ConfigDict, source: data.Source
) -> None:
    """Compare an autoencoder's reconstructions with their images, and write evaluation.json."""
    features, seed = source.features, noise.check_seed(config.eval.seed)
    used = data.select(source, [features.event_name])
    real = real_data(used, config.eval.data, seed)[features.event_name]
    run.enable_cache()
    params, step = run.restore_params(workdir, config, features, step=args.step, ema=args.ema)
    found = reconstructions.evaluate(config, source, params, real, seed)
    if distributed.is_first_process():
        _write(workdir, {"step": step, "data": len(real), **found, "left_out": {}})


def _write(workdir: epath.Path, report: dict[str, Any]) -> None:
    (workdir / "evaluation.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    print_table(report)


def _images(
    config: ConfigDict, real: data.Batch, features: data.Features, coder: FrozenCodec | None
) -> np.ndarray:
    """The data that samples are compared with; the means of latents are decoded."""
    events = real[features.event_name]
    if coder is None or not codecs.is_latent(features):
        return events
    mesh, size = build.mesh(config), config.sampling.batch_size
    parts = codec.batches_of(events.astype(np.float32), size)
    return np.concatenate(
        [codec.as_stored(codec.decode(coder, mesh, part), coder.image) for part in parts]
    )


def real_data(source: data.Source, most: int, seed: int) -> data.Batch:
    """At most `most` records, and no more than fit in memory, drawn at random."""
    if most < 1:
        raise ValueError(f"config.eval.data must be at least 1, got {most}")
    size = int(np.prod(source.features.event.shape))
    num, rows = min(len(source), most, max(1, MOST_NUMBERS // size)), np.arange(len(source))
    if num < len(rows):
        rows = np.sort(np.random.default_rng(seed).permutation(len(rows))[:num])
    return data.take(source, rows)


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
    left_out = report.pop("left_out")
    width = max(map(len, [*report, *left_out]))
    for name, value in report.items():
        print(f"{name:<{width}}  {f'{value:.4g}' if isinstance(value, float) else value}")
    for name, reason in left_out.items():
        print(f"{name:<{width}}  left out: {reason}")
