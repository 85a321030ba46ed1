"""The command train: train the network of a config in a folder, or resume the run in it."""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from sde_diffusion import data, distributed, training
from sde_diffusion.cli import (
    asked,
    claim,
    classes,
    codec,
    draw,
    picture,
    reconstructions,
    run,
    start,
    taken_over,
    texts,
)
from sde_diffusion.cli.say import say, warn
from sde_diffusion.config import adapters, autoencoders, build, codecs, conditions
from sde_diffusion.config import schema as configs
from sde_diffusion.config.check import check
from sde_diffusion.training import TrainState, init_from

EMBEDDED_PICTURES = 8  # of a network that is told embeddings: they are large


def train(args: Namespace, overrides: dict[str, str]) -> None:
    """Train the network of a config in a folder, or resume the run in it."""
    config = run.base_config(configs.load(args.config, overrides), overrides)
    train_in(run.folder(args.workdir), config, args.overwrite)


def train_in(workdir: epath.Path, config: ConfigDict, overwrite: bool) -> None:
    """The run of a config in a folder, from its beginning or on from its last checkpoint."""
    # ---- All that can be wrong is found before the folder is touched.
    taken_over.require_another_folder(config, workdir)
    resumes = bool(claim.steps_of(workdir)) and not overwrite
    plain = build.source(config)
    coder = codec.of_training(config, plain, workdir if resumes else taken_over.latents(config))
    taken_over.require_same_latents(config, coder)
    sampled = codecs.sampled(plain.features, coder)
    adapted = run.abstract(config, sampled) if adapters.has_adapters(config) else None
    if adapted is not None:
        jax.eval_shape(adapters.init(config, adapted), jax.random.key(0))  # config.lora.names
    embedded = texts.of_source(config, plain, workdir if resumes else None)  # may take minutes
    source, no_text, features = embedded.source, embedded.no_text, embedded.source.features
    taken_over.require_same_words(config, features)
    sampled = codecs.sampled(features, coder)
    teacher = start.teacher(config, sampled, coder)
    check(config, features, teacher, coder)
    params = run.abstract(config, sampled) if adapted is None else adapted
    mesh, planned = build.mesh(config), build.run(config)
    base = run.base(config, sampled) if adapters.has_adapters(config) else None
    recipe = build.recipe(config, features, teacher, coder, base, no_text)
    enough = start.enough(source, config.training.batch_size) if config.init_from.path else source
    batches = data.batches(
        data.select(enough, build.record_names(config, features)),
        config.training.batch_size,
        config.seed,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    if not autoencoders.is_autoencoder(config):
        draw.check(config, params, sampled)
    if resumes:
        taken_over.require_same(config, workdir, recipe, params)
    stored = None if resumes or base is not None else run.stored(config)
    taken = None if stored is None else init_from.plan(stored, params, config.init_from.names)

    # ---- The folder.
    described = run.Described(len(source), features)
    for line in claim.claim(workdir, config, described, overwrite=overwrite):
        say(line)
    if coder is not None:
        codec.write(workdir, coder)
    if embedded.known is not None and distributed.is_first_process():
        texts.write(workdir, embedded.known)
    run.enable_cache()
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    say(
        f"{config.network.name} of {size:,} parameters on {len(source):,} samples of "
        f"{source.name} {features.event.shape}; {jax.device_count()} {jax.default_backend()} device"
    )
    if base is not None:
        pairs = jax.tree.leaves(jax.eval_shape(recipe.init_params, jax.random.key(0)))
        say(
            f"trained are {sum(leaf.size for leaf in pairs):,} parameters of {len(pairs) // 2} "
            f"adapters; the base is {config.init_from.path}"
        )
    if build.is_conditional(config):
        say(f"classes: {classes.class_table(features)}")
    begin = None
    if stored is not None and taken is not None:
        start.tell(stored, taken)
        begin = partial(start.take_over, workdir=workdir, stored=stored, plan=taken)

    # ---- The run.
    every = []
    if picture.has_picture(codecs.shown(features, coder)):
        if autoencoders.is_autoencoder(config):
            pictures = reconstructions.pictures_of(config, workdir, source)
        else:
            pictures = pictures_of(config, workdir, source, coder, base, no_text)
        every.append(training.Every(config.training.sample_every, pictures))
    outcome = training.train(recipe, planned, batches, workdir, every=every, mesh=mesh, start=begin)
    if distributed.is_first_process():
        training.plot_loss(workdir)
    done = int(outcome.state.step)
    if outcome.preempted:
        say(f"stopped at step {done} of {config.training.steps}; the same command goes on")
    else:
        say(f"trained to step {done}: {workdir}")


def pictures_of(
    config: ConfigDict,
    workdir: epath.Path,
    source: data.Source,
    coder: codecs.FrozenCodec | None = None,
    base: Any = None,
    no_text: Any = None,
) -> Callable[[TrainState, int], None]:
    """What draws a picture of samples into the run's folder, and its loss.

    `base` has the parameters whose adapters are trained, if they are adapters. `no_text` has the
    embeddings of no text, if the network is told embeddings.
    """
    features = codecs.sampled(source.features, coder)
    event = codecs.shown(source.features, coder).event
    images = len(features.event.shape) == 3
    num, columns, real = 100 if images else 2000, 10, None
    if conditions.reads_text(config):
        num, columns = EMBEDDED_PICTURES, EMBEDDED_PICTURES // 2
    named = asked.in_turn(config, source, num)
    under = draw.Under(conditions.cond(named), no_text=no_text)
    if named.keys() == {"label"}:
        columns = len(classes.classes_with_data(features))
    if not images:
        real = data.take(source, np.arange(min(num, len(source))))[features.event_name]

    def pictures(state: TrainState, step: int) -> None:
        params = run.sampling_params(state)
        if base is not None:
            params = adapters.merged(config, base, params)
        try:
            x, _ = draw.draw(config, params, features, num, seed=0, under=under, coder=coder)
        except draw.NonFiniteSamples as error:
            warn(f"no picture at step {step}: {error}")
            return
        if distributed.is_first_process():
            path = workdir / "samples" / f"step_{step:07d}.png"
            picture.save(path, x, event, columns, real)
            training.plot_loss(workdir)

    return pictures
