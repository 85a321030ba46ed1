"""Wall time of sample() over as many jitted forward calls of the same network as it makes.

    python experiments/benchmarks/sampler_overhead.py [--repeats 5] [--solvers NAME,NAME]
        [--json overhead.json]

Every solver with a fixed grid, one with a corrector, and one with coefficients as `fit` leaves them
(those of DPM-Solver++(2M), whose values cost nothing). Both are timed in turn, in the same run,
after compilation; the ratio is that of the medians, and the aim at most 1.05. Beside it the seconds
that the sampler takes to compile, for the digits' network also with ten times the steps: the aim is
that they be equal.
"""

import argparse
import functools
import json
import platform
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import sde_diffusion as sd
from sde_diffusion import grids, networks, samplers
from sde_diffusion.fitting import family

SDE = sd.VP()
# name: (network, shape of a batch, evaluations or a few less, whether to compile for more steps)
NETWORKS = {
    "mlp (digits), 3.3 M": (
        networks.MLP(features=512, num_blocks=4, label_scale=1000.0),
        (250, 8, 8, 1),
        50,
        True,
    ),
    "ddpm (CIFAR-10), 35 M": (
        networks.DDPM(num_res_blocks=2, resamp_with_conv=True),
        (2, 32, 32, 3),
        7,
        False,
    ),
}


def corrected(steps: int) -> samplers.Solver:
    return samplers.PredictorCorrector(samplers.DDIM(), samplers.Langevin())


def fitted(steps: int) -> samplers.Solver:
    """A non-stationary solver of `steps` steps, the last of which denoises."""
    times = grids.log_snr(SDE, steps - 1)
    theta = family.as_multistep(samplers.DPMSolverPP2M(), SDE, times)
    return family.settle(family.multistep(steps)(SDE, theta))


# A solver by its number of steps.
SOLVERS = {
    **{
        name: lambda steps, kind=kind: kind()
        for name, kind in samplers.SOLVERS.items()
        if not kind.adaptive
    },
    "ddim+langevin": corrected,
    "fitted": fitted,
}


def compiled(model, shape: tuple[int, ...], solver: samplers.Solver, steps: int):
    """The sampler as a compiled function of (key, model), and the seconds to compile it."""
    grid = None if solver.times else grids.uniform(SDE, steps)

    @jax.jit
    def sampled(key, model):
        return sd.sample(key, model, shape, solver=solver, grid=grid)

    lowered = sampled.lower(jax.random.key(0), model)
    start = time.perf_counter()
    return lowered.compile(), time.perf_counter() - start


def seconds(function) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def measure(model, forward, shape, make, budget: int, more: bool, repeats: int) -> dict:
    """Median seconds of a sampler and of its number of forward calls, and their ratio."""
    given = make(2)
    steps = max(1, (budget - 1 - given.extra_evaluations) // given.evaluations)
    solver = make(steps)
    sampler, compile_seconds = compiled(model, shape, solver, steps)
    sampled = functools.partial(sampler, jax.random.key(0), model)
    evaluations = int(sampled().nfe)
    forward()
    times = [
        (seconds(sampled), sum(seconds(forward) for _ in range(evaluations)))
        for _ in range(repeats)
    ]
    ours, calls = (statistics.median(part) for part in zip(*times, strict=True))
    longer = compiled(model, shape, make(10 * steps), 10 * steps)[1] if more else None
    return {
        "evaluations": evaluations,
        "steps": steps,
        "sampler_seconds": ours,
        "forward_seconds": calls,
        "ratio": ours / calls,
        "compile_seconds": compile_seconds,
        "compile_seconds_10": longer,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--solvers", help="names between commas, all unless given")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    device = jax.devices()[0]
    print(f"{device.device_kind}, {platform.machine()}, jax {jax.__version__}")
    print("| network | solver | evaluations | s | s of forward calls | ratio | compile | 10 x |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for name, (network, shape, budget, more) in NETWORKS.items():
        x, label = jnp.ones(shape), jnp.ones(shape[:1])
        params = jax.jit(network.init)(jax.random.key(0), x, label)
        model = sd.from_network(SDE, network.apply, params, "ddpm")
        forward = functools.partial(jax.jit(network.apply), params, x, label)
        for solver_name in args.solvers.split(",") if args.solvers else SOLVERS:
            make = SOLVERS[solver_name]
            row = measure(model, forward, shape, make, budget, more, args.repeats)
            rows.append({"network": name, "solver": solver_name, **row})
            longer = row["compile_seconds_10"]
            print(
                f"| {name} | {solver_name} | {row['evaluations']} | {row['sampler_seconds']:.3f} | "
                f"{row['forward_seconds']:.3f} | {row['ratio']:.3f} | "
                f"{row['compile_seconds']:.1f} | {'' if longer is None else f'{longer:.1f}'} |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
