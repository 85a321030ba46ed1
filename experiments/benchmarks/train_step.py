"""The training step of a config on the devices that are here: speed, utilisation and memory.

    python experiments/benchmarks/train_step.py --config configs/digits.py [--calls 20]
        [--event 32,32,3] [--json FILE] [--config.training.batch_size=32]

It is the step that `sde-diffusion train` makes: sharded over config.mesh, the state donated,
config.training.steps_per_call steps in a compiled call, of batches that lie on the devices already.
After two calls to warm up every call is timed until its end. Training does not wait for the end of
a call before it makes the next, so give a short step several in a call.

Utilisation is that of the model: its FLOPs are three times those that XLA counts in the forward
pass of a batch, as lowered for a TPU and before the compiler changes it (the backward pass of a
matrix product or a convolution is two of them), so that neither rematerialization nor a device's
own algorithms count. It is over the chips' peak for bfloat16 where that is known.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from sde_diffusion import data, distributed, planning, training
from sde_diffusion.cli import read_overrides
from sde_diffusion.config import build
from sde_diffusion.config import schema as configs

WARM_UP = 2
# What JAX calls the chips of the table of peak figures.
KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
}


class Step(NamedTuple):
    """`call()` makes `steps` steps and returns at their end."""

    call: Callable[[], None]
    steps: int
    compile_seconds: float
    memory: Any  # the compiler's count of bytes a device


def prepare(config: ConfigDict, source: data.Source) -> Step:
    """The step that a config trains with, compiled, and a call of it on batches of the source."""
    steps, mesh = config.training.steps_per_call, build.mesh(config)
    distributed.check_batch_size(mesh, config.training.batch_size)
    recipe = build.recipe(config, source.features)
    step: Any  # what jax.jit made
    step, abstract, _ = training.step_on_mesh(mesh, recipe)
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    state = training.init_state(
        recipe,
        init_key,
        shardings=lambda _: jax.tree.map(lambda leaf: leaf.sharding, abstract),
    )
    source = data.select(source, build.record_names(config, source.features))
    drawn = data.batches(source, config.training.batch_size, config.seed)
    taken = [training.for_devices(next(drawn)) for _ in range(steps)]
    batches = jax.tree.map(lambda *leaves: np.stack(leaves), *taken)
    batches = distributed.place_batches(mesh, batches)
    start = time.perf_counter()
    compiled = step.lower(state, step_key, batches).compile()
    compile_seconds = time.perf_counter() - start

    def call() -> None:
        nonlocal state
        state, _ = compiled(state, step_key, batches)
        jax.block_until_ready(state)

    return Step(call, steps, compile_seconds, compiled.memory_analysis())


def model_flops(config: ConfigDict, source: data.Source) -> float:
    """FLOPs of a training step for each of its samples: three times those of the forward pass."""
    size, event = config.training.batch_size, source.features.event.shape
    params = jax.eval_shape(build.init_params(config, event), jax.random.key(0))
    batch = {
        name: jax.ShapeDtypeStruct(
            (size, *source.features[name].shape), source.features[name].dtype
        )
        for name in build.record_names(config, source.features)
    }
    objective = partial(
        build.recipe(config, source.features).objective, frozen=None, ema=(), step=0
    )
    lowered = (
        jax.jit(objective)
        .trace(params, jax.random.key(0), batch)
        .lower(lowering_platforms=("tpu",))
    )
    return 3 * lowered.cost_analysis()["flops"] / size


def random_source(config: ConfigDict, event: tuple[int, ...]) -> data.Source:
    """A batch of noise in whole numbers, for the benchmark of a config whose data is not here."""
    rng, size = np.random.default_rng(0), config.training.batch_size
    x = rng.integers(256, size=(size, *event), dtype=np.uint8)
    arrays = {"image" if len(event) == 3 else "x": x}
    classes = config.network.get("num_classes")
    if classes is None:
        return data.from_arrays("noise", arrays)
    arrays["label"] = rng.integers(classes, size=size, dtype=np.int32)
    return data.from_arrays("noise", arrays, classes=[str(k) for k in range(classes)])


def measure(config: ConfigDict, source: data.Source, calls: int) -> dict[str, Any]:
    """What the benchmark tells: seconds, images, FLOPs and bytes."""
    step = prepare(config, source)
    for _ in range(WARM_UP):
        step.call()
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        step.call()
        seconds.append((time.perf_counter() - start) / step.steps)
    median, size = statistics.median(seconds), config.training.batch_size
    flops, memory = model_flops(config, source), step.memory
    device, peak = jax.devices()[0], None
    if device.device_kind in KINDS:
        peak = planning.CHIPS[KINDS[device.device_kind]].flops
    utilisation = None if peak is None else flops * size / median / (peak * jax.device_count())
    return {
        "device": hardware(device),
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "batch_size": size,
        "steps_per_call": step.steps,
        "compile_seconds": step.compile_seconds,
        "step_seconds": median,
        "step_seconds_least": min(seconds),
        "images_per_second": size / median,
        "model_flops_per_image": flops,
        "model_flops_per_second": flops * size / median,
        "peak_flops_per_second": peak,
        "utilisation": utilisation,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes_in_use": (device.memory_stats() or {}).get("peak_bytes_in_use"),
    }


def hardware(device: jax.Device) -> str:
    """The accelerator's name, or the processor's with the number of its cores."""
    cpuinfo = Path("/proc/cpuinfo")
    if device.platform != "cpu" or not cpuinfo.exists():
        return device.device_kind
    lines = cpuinfo.read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {models[0]}" if models else device.device_kind


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", required=True, help="a Python file with get_config()")
    parser.add_argument("--calls", type=int, default=20, help="calls that are timed (20)")
    parser.add_argument("--event", help="a sample's shape, as in 32,32,3: noise for the data")
    parser.add_argument("--json", type=Path)
    args, rest = parser.parse_known_args(argv)
    try:
        config = configs.load(args.config, read_overrides(rest))
        if args.calls < 1:
            raise ValueError(f"--calls must be at least 1, got {args.calls}")
        if args.event is None:
            source = build.source(config)
        else:
            source = random_source(config, shape(args.event))
        row = {"config": args.config, "overrides": rest, **measure(config, source, args.calls)}
    except (ValueError, OSError, ImportError) as error:
        print(f"train_step: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for name, value in row.items():
        told = f"{value:,.4g}" if isinstance(value, float) else value
        print(f"{name:24} {'not known' if told is None else told}")
    if args.json:
        args.json.write_text(json.dumps(row, indent=2) + "\n")
    return 0


def shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise ValueError(f"--event takes a shape, as in 32,32,3; got {text!r}") from None


if __name__ == "__main__":
    sys.exit(main())
