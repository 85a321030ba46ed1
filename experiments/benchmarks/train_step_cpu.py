"""The training step of the reference's DDPM on a CPU, over that of the same network in PyTorch.

    pip install '.[bench]'
    python experiments/benchmarks/train_step_cpu.py [--repeats 9] [--json train_step.json]

vp/ddpm/cifar10_continuous: 35.2 M parameters, 32x32 images, batch 8, dropout 0.1; loss, gradient
and its norm, Adam and EMA. PyTorch's network is diffusers' UNet2DModel with our parameters, whose
output is compared with ours first. Ours is the step of `train_step.py`, several in a compiled call.
The two are timed in turn, in the same run, after compilation; the ratio is that of the medians,
and the least times, which a busy machine disturbs less, are given beside it. Aim: at most 1.

Before that, the rates of both libraries are measured for what a step mostly consists of: a 3x3
convolution of that network and a matrix product, forward, each alone. They tell how much of the
ratio comes from the libraries' own routines for the processor.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_ddpm
import train_step

from sde_diffusion.config import build
from sde_diffusion.config import schema as configs

BATCH, STEPS, RATE, EMA, EVENT = 8, 4, 2e-4, 0.9999, (32, 32, 3)
# The bare operations: images [BATCH, 32, 32, CHANNELS], and square matrices [SIZE, SIZE].
CHANNELS, SIZE = 128, 2048
CONFIG = configs.load(
    Path(__file__).parents[2] / "configs/vp/ddpm/cifar10_continuous.py",
    {
        "training.batch_size": f"{BATCH}",
        "training.steps_per_call": f"{STEPS}",
        # What PyTorch's step below does not do either.
        "data.flip": "False",
        "optim.clip_norm": "None",
    },
)


CONVOLUTION = {
    "window_strides": (1, 1),
    "padding": "SAME",
    "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
}


def torch_step(start):
    """The same in PyTorch, from the same parameters."""
    network = torch_ddpm.build()
    check(network, start)
    torch_ddpm.load(network, start)
    network.train()
    parameters = list(network.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.Adam(parameters, lr=RATE, fused=True)
    x0 = torch.randn(BATCH, 3, 32, 32)

    def update() -> None:
        t, eps = torch.rand(BATCH), torch.randn_like(x0)
        alpha = torch.exp(-0.25 * t**2 * 19.9 - 0.05 * t)[:, None, None, None]
        x = alpha * x0 + torch.sqrt(1 - alpha**2) * eps
        loss = ((network(x, 999 * t).sample - eps) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.get_total_norm([p.grad for p in parameters])
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - EMA)

    def run() -> None:
        for _ in range(STEPS):
            update()

    return run


def check(network, params) -> None:
    """The two networks compute the same; otherwise there is nothing to compare."""
    rng = np.random.default_rng(1)
    # Moved away from the start, where the last layer is nearly zero.
    params = jax.tree.map(lambda p: p + 0.03 * rng.standard_normal(p.shape, np.float32), params)
    torch_ddpm.load(network, params)
    x = rng.standard_normal((2, 32, 32, 3), np.float32)
    t = np.array([100.0, 900.0], np.float32)
    ours = np.asarray(jax.jit(build.network(CONFIG).apply)({"params": params}, x, t))
    with torch.no_grad():
        theirs = network.eval()(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(t)).sample
    theirs = theirs.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def rates(repeats: int) -> dict[str, dict[str, float]]:
    """GFLOP/s of a bare 3x3 convolution and of a bare matrix product, in JAX and in PyTorch."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, *EVENT[:2], CHANNELS), np.float32)
    kernel = rng.standard_normal((3, 3, CHANNELS, CHANNELS), np.float32)
    a, b = (rng.standard_normal((SIZE, SIZE), np.float32) for _ in range(2))

    convolve = jax.jit(partial(jax.lax.conv_general_dilated, **CONVOLUTION))
    product = jax.jit(jnp.matmul)
    jax_x, jax_kernel, jax_a, jax_b = map(jnp.asarray, (x, kernel, a, b))
    # PyTorch's images in its arrangement for CPUs, whose memory is that of NHWC.
    torch_x = torch.tensor(x).permute(0, 3, 1, 2)
    torch_kernel = torch.tensor(kernel.transpose(3, 2, 0, 1))
    torch_kernel = torch_kernel.contiguous(memory_format=torch.channels_last)
    torch_a, torch_b = torch.tensor(a), torch.tensor(b)
    runs = {
        "convolution": {
            "jax": lambda: convolve(jax_x, jax_kernel).block_until_ready(),
            "torch": lambda: torch.conv2d(torch_x, torch_kernel, padding=1),
        },
        "product": {
            "jax": lambda: product(jax_a, jax_b).block_until_ready(),
            "torch": lambda: torch_a @ torch_b,
        },
    }
    flops = {"convolution": 2 * 9 * x.size * CHANNELS, "product": 2 * SIZE**3}
    with torch.no_grad():
        return {
            name: {
                library: flops[name] / least(run, repeats) / 1e9 for library, run in both.items()
            }
            for name, both in runs.items()
        }


def least(run: Callable[[], object], repeats: int) -> float:
    """The least wall time of a run in seconds, after one that is not timed."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def seconds(run) -> float:
    """Wall time of a step."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    torch.set_num_threads(os.cpu_count() or 1)
    versions = f"jax {jax.__version__}, torch {torch.__version__}"
    print(f"{train_step.hardware(jax.devices()[0])}, {versions}", flush=True)
    bare = rates(10 * args.repeats)
    for name, rate in bare.items():
        print(
            f"bare {name}: JAX {rate['jax']:.0f} GFLOP/s, PyTorch {rate['torch']:.0f} GFLOP/s",
            flush=True,
        )
    step = train_step.prepare(CONFIG, train_step.random_source(CONFIG, EVENT))
    print(f"compilation: {step.compile_seconds:.0f} s", flush=True)
    ours = step.call
    ours()
    theirs = torch_step(jax.jit(build.init_params(CONFIG, EVENT))(jax.random.key(0)))
    theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(args.repeats)]
    ours_times, torch_times = zip(*times, strict=True)
    row: dict[str, dict[str, float]] = {f"bare {name}": rate for name, rate in bare.items()}
    for name, summary in (("median", statistics.median), ("least", min)):
        ours_s, torch_s = summary(ours_times), summary(torch_times)
        row[name] = {"ours": ours_s, "torch": torch_s, "ratio": ours_s / torch_s}
        print(f"{name}: ours {ours_s:.3f} s / PyTorch {torch_s:.3f} s = {ours_s / torch_s:.3f}")
    if args.json:
        args.json.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
