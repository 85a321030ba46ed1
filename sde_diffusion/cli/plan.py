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
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sde_diffusion import data, planning
from sde_diffusion.cli import build, plan_search, plan_table
from sde_diffusion.cli import config as configs
from sde_diffusion.planning import Topology

# Samples of these sources have one shape, so that they need not be here.
EVENTS = {"cifar10": (32, 32, 3)}


def plan(args: Namespace, overrides: dict[str, str]) -> None:
    """Compile the training step and a step of the sampler for a topology, and print their costs."""
    config = configs.load(args.config, overrides)
    event = None if args.event is None else _event(args.event)
    topology = planning.named(args.topology)
    found = plan_config(config, topology, event)
    if args.search:
        found["search"] = plan_search.search(
            config, topology, lambda changed: plan_training(changed, topology, event)
        )
    if args.json:
        print(json.dumps({"config": args.config} | found, indent=2))
    else:
        print(plan_table.table(args.config, found))


def plan_config(
    config: ConfigDict, topology: Topology, event: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """What the programs of a config cost on a topology, in plain values.

    Nothing is computed and no array of the network's allocated. Raises ValueError for what is wrong
    with the config, its mesh or its batches on these devices.
    """
    source = _source(config, event)
    mesh = build.mesh(config, topology.devices)
    abstract = jax.eval_shape(build.init_params(config, source.x.shape[1:]), jax.random.key(0))
    chip = topology.chip
    return {
        "topology": topology.name,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "chip": {"name": chip.name, "memory": chip.memory, "source": chip.source},
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(abstract)),
        "training": plan_training(config, topology, event),
        "sampling": _plan_sampling(config, topology, source, abstract),
    }


def plan_training(
    config: ConfigDict, topology: Topology, event: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """The costs of one update of `train`."""
    source = _source(config, event)
    mesh, size = build.mesh(config, topology.devices), config.training.batch_size
    step = build.training_step(config, source.x.shape[1:], build.scaling(config, source))
    batch = {"x": jax.ShapeDtypeStruct((size, *source.x.shape[1:]), source.x.dtype)}
    if source.y is not None:
        batch["y"] = jax.ShapeDtypeStruct((size,), jnp.int32)
    with _progress(f"compiling the training step for {topology.name}"):
        lowered = planning.lower_training_step(mesh, batch, **step)
        costs = _costs(lowered, topology, mesh.size, times=config.optim.accumulate)
    seconds = costs.get("estimate_seconds")
    return {
        "batch_size": size,
        "accumulate": config.optim.accumulate,
        **costs,
        "images_per_second": None if seconds is None else size / seconds,
    }


def _plan_sampling(
    config: ConfigDict, topology: Topology, source: data.Source, params: Any
) -> dict[str, Any]:
    mesh, solver, grid = (
        build.mesh(config, topology.devices),
        build.solver(config),
        build.grid(config),
    )
    # As `sample` does: as many on each device.
    size = -(-config.sampling.batch_size // mesh.size) * mesh.size
    times = solver.times if grid is None else grid
    assert times is not None
    steps = len(times) - 1
    with _progress(f"compiling a step of the sampler for {topology.name}"):
        lowered = planning.lower_sampler_step(
            mesh,
            lambda params, y: build.model(config, params, y),
            params,
            build.sde(config),
            (size, *source.x.shape[1:]),
            solver=solver,
            grid=grid,
            labels=build.is_conditional(config),
        )
        costs = _costs(lowered, topology, mesh.size)
    seconds = costs.get("estimate_seconds")
    evaluations = steps * solver.evaluations + (not solver.denoises)
    whole = None if seconds is None else seconds * evaluations / solver.evaluations
    return {
        "batch_size": size,
        "solver": config.sampling.solver.name,
        "steps": steps,
        "evaluations_a_step": solver.evaluations,
        "evaluations": None if solver.adaptive else evaluations,
        **costs,
        "images_per_second": None if whole is None or solver.adaptive else size / whole,
    }


def _costs(lowered: Any, topology: Topology, devices: int, times: int = 1) -> dict[str, Any]:
    """The program's costs and times, of `times` runs, and whether it fits."""
    try:
        program = planning.compile_program(lowered, devices)
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


def _source(config: ConfigDict, event: tuple[int, ...] | None) -> data.Source:
    """The data, or a source without rows where their shape is known otherwise."""
    name = config.data.source.name
    event = event or EVENTS.get(name)
    if event is None:
        try:
            return build.source(config)
        except (OSError, ImportError) as error:
            raise ValueError(
                f"{error}; to plan without the data, give the shape of a sample: --event 64,64,3"
            ) from error
    x = np.zeros((0, *event), np.uint8)
    if not build.is_conditional(config):
        return data.Source(name, x, None, 0, 255)
    classes = config.network.num_classes
    return data.Source(name, x, np.zeros(0, np.int32), 0, 255, classes)


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
