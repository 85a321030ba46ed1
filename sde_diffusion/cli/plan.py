"""The command `plan`: what training and sampling cost on devices that need not be present."""

import dataclasses
import json
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from ml_collections import ConfigDict

from sde_diffusion import data, planning
from sde_diffusion.cli import codec, plan_search, plan_table, start
from sde_diffusion.config import autoencoders, build, codecs, conditions
from sde_diffusion.config import schema as configs
from sde_diffusion.networks import attention
from sde_diffusion.planning import Topology

# The samples of these sources have a known shape, so the data need not be present.
EVENTS = {"cifar10": (32, 32, 3)}


def plan(args: Namespace, overrides: dict[str, str]) -> None:
    """Compile the training step and a step of the sampler for a topology, and print their costs."""
    config = configs.load(args.config, overrides)
    autoencoders.require_denoiser(config, f"--config {args.config}")
    features = features_of(config, None if args.event is None else _event(args.event))
    topology = planning.named(args.topology)
    found = plan_config(config, topology, features)
    if args.search:
        tried = plan_search.search(
            config, topology, lambda changed: plan_training(changed, topology, features)
        )
        found["search"] = plan_search.fastest_first([{"changes": {}, **found["training"]}, *tried])
    if args.json:
        print(json.dumps({"config": args.config} | found, indent=2))
    else:
        print(plan_table.table(args.config, found))


def plan_config(config: ConfigDict, topology: Topology, features: data.Features) -> dict[str, Any]:
    """The costs of a config's programs on a topology, as plain values.

    Nothing is computed, and no array of the network is allocated. Raises ValueError if the config,
    its mesh or its batches do not fit these devices.
    """
    mesh = build.mesh(config, topology.devices)
    sampled = codecs.sampled(features, _codec(config, features))
    abstract = jax.eval_shape(build.init_params(config, sampled.event.shape), jax.random.key(0))
    chip = topology.chip
    return {
        "topology": topology.name,
        "compiler": topology.compiler,
        "devices": mesh.size,
        "slices": topology.slices,
        "mesh": dict(mesh.shape),
        "chip": {"name": chip.name, "memory": chip.memory, "source": chip.source},
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(abstract)),
        "training": plan_training(config, topology, features),
        "sampling": plan_sampling(config, topology, sampled),
    }


def plan_training(
    config: ConfigDict, topology: Topology, features: data.Features
) -> dict[str, Any]:
    """The costs of one update of `train`."""
    mesh, size = build.mesh(config, topology.devices), config.training.batch_size
    batch = {
        name: jax.ShapeDtypeStruct((size, *features[name].shape), features[name].dtype)
        for name in build.record_names(config, features)
    }
    coder = _codec(config, features)
    teacher = start.planned_teacher(config, codecs.sampled(features, coder))
    recipe = build.recipe(config, features, teacher, coder)
    with _progress(f"compiling the training step for {topology.name}"):
        with attention.chosen() as chosen:
            lowered = planning.lower_training_step(mesh, batch, recipe)
        costs = _costs(lowered, topology) | {"attention": _attention(chosen)}
    seconds = costs.get("estimate_seconds")
    return {
        "batch_size": size,
        "accumulate": config.optim.accumulate,
        **costs,
        "images_per_second": None if seconds is None else size / seconds,
    }


def plan_sampling(
    config: ConfigDict, topology: Topology, features: data.Features
) -> dict[str, Any]:
    """The costs of a step of the solver of `sample`, and the complete images per second."""
    mesh, event = build.mesh(config, topology.devices), features.event.shape
    solver, grid = build.solver(config), build.grid(config)
    # `sample` draws equally many on each device, too.
    size = -(-config.sampling.batch_size // mesh.size) * mesh.size
    with _progress(f"compiling a step of the sampler for {topology.name}"):
        with attention.chosen() as chosen:
            lowered = planning.lower_sampler_step(
                mesh,
                lambda params: build.model(config, params),
                jax.eval_shape(build.init_params(config, event), jax.random.key(0)),
                (size, *event),
                solver=solver,
                grid=grid,
                cond=jax.tree.map(
                    lambda one: jax.ShapeDtypeStruct((size, *one.shape[1:]), one.dtype),
                    conditions.cond(conditions.zeros(config, features)),
                ),
            )
        costs = _costs(lowered, topology) | {"attention": _attention(chosen)}
    corrector = config.sampling.corrector.name
    found = {
        "batch_size": size,
        "solver": config.sampling.solver.name + (f" + {corrector}" if corrector != "none" else ""),
        "evaluations_a_step": solver.evaluations,
        **costs,
    }
    if solver.adaptive:  # the number of its steps is not known
        return found | {"steps": None, "evaluations": None, "images_per_second": None}
    times = solver.times if grid is None else grid
    assert times is not None  # a solver without a grid of its own takes the config's
    steps = len(times) - 1
    denoises = config.sampling.denoise_last and not solver.denoises
    evaluations = steps * solver.evaluations + solver.extra_evaluations + denoises
    seconds = costs.get("estimate_seconds")
    whole = None if seconds is None else seconds * evaluations / solver.evaluations
    return found | {
        "steps": steps,
        "evaluations": evaluations,
        "images_per_second": None if whole is None else size / whole,
    }


def _costs(lowered: Any, topology: Topology) -> dict[str, Any]:
    """The costs of a program, and whether it fits the memory of a device."""
    try:
        program = planning.compile_program(lowered, len(topology.devices))
    except planning.DoesNotFit as error:
        return {"fits": False, "reason": str(error)}
    memory = topology.chip.memory
    seconds = planning.estimate(program, topology.chip)
    return {
        "fits": None if memory is None else program.peak <= memory,
        **dataclasses.asdict(program),
        **{f"{name}_seconds": value for name, value in seconds._asdict().items()},
    }


def _attention(chosen: set[attention.Choice]) -> list[dict[str, Any]]:
    return [
        {"queries": queries, "keys": keys, "implementation": name}
        for queries, keys, name in sorted(chosen, reverse=True)
    ]


def features_of(config: ConfigDict, event: tuple[int, ...] | None = None) -> data.Features:
    """The features of the data. With an `event` shape, or a known source, no data are read.

    Where the config has a codec, `event` is the shape of its latents.

    Raises ValueError where the data are not present and the shape of a sample is not known.
    """
    name = config.data.source.name
    event = event or (None if config.codec.path else EVENTS.get(name))
    if event is None:
        try:
            return build.source(config).features
        except (OSError, ImportError) as error:
            raise ValueError(
                f"{error}; to plan without the data, give the shape of a sample: --event 64,64,3"
            ) from error
    if config.codec.path or name == "latents":
        features = {
            "mean": codecs.latent_feature(event, 0.0, 1.0),
            "deviation": data.Feature(event, "float32"),
        }
    else:
        features = {"image" if len(event) == 3 else "x": data.Feature(event, "uint8", 0, 255)}
    return data.Features(features | conditions.features(config, event))


def _codec(config: ConfigDict, features: data.Features) -> codecs.FrozenCodec | None:
    """The codec that encodes inside the step; None where the records are latents."""
    if not config.codec.path or codecs.is_latent(features):
        return None
    return codec.read(config.codec)


def _event(text: str) -> tuple[int, ...]:
    try:
        event = tuple(int(size) for size in text.split(","))
    except ValueError:
        event = ()
    if not event or min(event) < 1:
        raise ValueError(f"--event takes the shape of a sample, as in 64,64,3; got {text!r}")
    return event


@contextmanager
def _progress(what: str) -> Iterator[None]:
    """Shows the elapsed seconds of the block in a line on standard error."""
    begun, done = time.perf_counter(), threading.Event()

    def line() -> str:
        return f"{what}: {time.perf_counter() - begun:.0f} s"

    def count() -> None:
        while not done.wait(1.0):
            print(f"\r{line()}", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=count, daemon=True)
    if sys.stderr.isatty():
        thread.start()
    else:
        print(what, file=sys.stderr, flush=True)
    try:
        yield
    finally:
        done.set()
        if thread.is_alive():
            thread.join()
            print(f"\r{line()}", file=sys.stderr, flush=True)
