"""The command plan: what training and sampling would cost on devices that need not be here."""

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
from sde_diffusion.cli import plan_search, plan_table
from sde_diffusion.config import build
from sde_diffusion.config import schema as configs
from sde_diffusion.planning import Topology

# Samples of these sources have one shape, so that they need not be here.
EVENTS = {"cifar10": (32, 32, 3)}


def plan(args: Namespace, overrides: dict[str, str]) -> None:
    """Compile the training step and a step of the sampler for a topology, and print their costs."""
    config = configs.load(args.config, overrides)
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
    """What the programs of a config cost on a topology, in plain values.

    Nothing is computed and no array of the network's allocated. Raises ValueError for what is wrong
    with the config, its mesh or its batches on these devices.
    """
    mesh = build.mesh(config, topology.devices)
    abstract = jax.eval_shape(build.init_params(config, features.event.shape), jax.random.key(0))
    chip = topology.chip
    return {
        "topology": topology.name,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "chip": {"name": chip.name, "memory": chip.memory, "source": chip.source},
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(abstract)),
        "training": plan_training(config, topology, features),
        "sampling": plan_sampling(config, topology, features),
    }


def plan_training(
    config: ConfigDict, topology: Topology, features: data.Features
) -> dict[str, Any]:
    """The costs of one update of `train`."""
    mesh, size = build.mesh(config, topology.devices), config.training.batch_size
    batch = {
        name: jax.ShapeDtypeStruct((size, *feature.shape), feature.dtype)
        for name, feature in features.items()
        if feature.dtype != "str"  # texts stay on the host
    }
    with _progress(f"compiling the training step for {topology.name}"):
        lowered = planning.lower_training_step(mesh, batch, build.recipe(config, features))
        costs = _costs(lowered, topology, times=config.optim.accumulate)
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
    """The costs of one step of the solver of `sample`, and how fast whole samples are."""
    mesh, event = build.mesh(config, topology.devices), features.event.shape
    solver, grid = build.solver(config), build.grid(config)
    # As `sample` does: as many on each device.
    size = -(-config.sampling.batch_size // mesh.size) * mesh.size
    with _progress(f"compiling a step of the sampler for {topology.name}"):
        lowered = planning.lower_sampler_step(
            mesh,
            lambda params, y: build.model(config, params, y),
            jax.eval_shape(build.init_params(config, event), jax.random.key(0)),
            build.sampling_sde(config),
            (size, *event),
            solver=solver,
            grid=grid,
            labels=build.is_conditional(config),
        )
        costs = _costs(lowered, topology)
    corrector = config.sampling.corrector.name
    told = {
        "batch_size": size,
        "solver": config.sampling.solver.name + (f" + {corrector}" if corrector != "none" else ""),
        "evaluations_a_step": solver.evaluations,
        **costs,
    }
    if solver.adaptive:  # nobody knows how many steps it takes
        return told | {"steps": None, "evaluations": None, "images_per_second": None}
    times = solver.times if grid is None else grid
    assert times is not None  # a solver without a grid of its own has the config's
    steps = len(times) - 1
    denoises = config.sampling.denoise_last and not solver.denoises
    evaluations = steps * solver.evaluations + denoises
    seconds = costs.get("estimate_seconds")
    whole = None if seconds is None else seconds * evaluations / solver.evaluations
    return told | {
        "steps": steps,
        "evaluations": evaluations,
        "images_per_second": None if whole is None else size / whole,
    }


def _costs(lowered: Any, topology: Topology, times: int = 1) -> dict[str, Any]:
    """The program's costs, the times of `times` runs, and whether it fits."""
    try:
        program = planning.compile_program(lowered, len(topology.devices))
    except planning.DoesNotFit as error:
        return {"fits": False, "told": str(error)}
    memory = topology.chip.memory
    spent = planning.estimate(program, topology.chip)
    seconds = {
        f"{name}_seconds": None if value is None else times * value
        for name, value in spent._asdict().items()
    }
    return {
        "fits": None if memory is None else program.peak <= memory,
        **dataclasses.asdict(program),
        **seconds,
    }


def features_of(config: ConfigDict, event: tuple[int, ...] | None = None) -> data.Features:
    """The features of the data; where the shape of a sample is known, of images without a source.

    Raises ValueError where the data are not here and the shape is not known.
    """
    name, classes = config.data.source.name, config.network.get("num_classes")
    event = event or EVENTS.get(name)
    if event is None:
        try:
            return build.source(config).features
        except (OSError, ImportError) as error:
            raise ValueError(
                f"{error}; to plan without the data, give the shape of a sample: --event 64,64,3"
            ) from error
    features = {"image" if len(event) == 3 else "x": data.Feature(event, "uint8", 0, 255)}
    if classes is not None:
        names = tuple(str(k) for k in range(classes))
        features["label"] = data.Feature((), "int32", classes=names)
    return data.Features(features)


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
    """A line on standard error that counts the seconds of the block."""
    start, done = time.perf_counter(), threading.Event()

    def line() -> str:
        return f"{what}: {time.perf_counter() - start:.0f} s"

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
