"""Wall time of sample() over as many jitted forward calls of the same network as it makes.

    python experiments/benchmarks/sampler_overhead.py [--repeats 7] [--json overhead.json]

Both are timed in turn, in the same run, after compilation; the ratio is that of the medians. Aim:
at most 1.05 for every solver.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import sde_diffusion as sd
from sde_diffusion import grids, networks, samplers

SDE = sd.VP()
SOLVERS = ["ddim", "dpmpp_2m", "heun", "euler_maruyama"]
# name: (network, shape of a batch, steps)
NETWORKS = {
    "mlp (digits), 3.3 M": (
        networks.MLP(features=512, num_blocks=4, label_scale=1000.0),
        (250, 8, 8, 1),
        50,
    ),
    "ddpm (CIFAR-10), 35 M": (
        networks.DDPM(num_res_blocks=2, resamp_with_conv=True),
        (2, 32, 32, 3),
        5,
    ),
}


def measure(network, shape: tuple[int, ...], steps: int, solver_name: str, repeats: int) -> dict:
    """Median seconds of a sampler and of its number of forward calls, and their ratio."""
    x, label = jnp.ones(shape), jnp.ones(shape[:1])
    params = jax.jit(network.init)(jax.random.key(0), x, label)
    model = sd.from_network(SDE, network.apply, params, "ddpm")
    solver, grid = samplers.named(solver_name), grids.uniform(SDE, steps)
    forward = jax.jit(network.apply)

    def sampled():
        return sd.sample(jax.random.key(0), model, SDE, shape, solver=solver, grid=grid)

    evaluations = int(sampled().nfe)
    jax.block_until_ready(forward(params, x, label))
    sampler_seconds, forward_seconds = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(sampled())
        sampler_seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        for _ in range(evaluations):
            jax.block_until_ready(forward(params, x, label))
        forward_seconds.append(time.perf_counter() - start)
    ours, calls = statistics.median(sampler_seconds), statistics.median(forward_seconds)
    return {
        "solver": solver_name,
        "evaluations": evaluations,
        "sampler_seconds": ours,
        "forward_seconds": calls,
        "ratio": ours / calls,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    device = jax.devices()[0]
    print(f"{device.device_kind}, {platform.machine()}, jax {jax.__version__}")
    rows = []
    for name, (network, shape, steps) in NETWORKS.items():
        for solver in SOLVERS:
            row = {"network": name, **measure(network, shape, steps, solver, args.repeats)}
            rows.append(row)
            print(
                f"{name:24s} {solver:20s} {row['evaluations']:4d} evaluations  "
                f"{row['sampler_seconds']:7.3f} s / {row['forward_seconds']:7.3f} s = "
                f"{row['ratio']:.3f}",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
