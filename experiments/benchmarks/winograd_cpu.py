"""Winograd's algorithm over XLA's convolution, for single convolutions of the DDPM on a CPU.

    python experiments/benchmarks/winograd_cpu.py [--repeats 25]

Each is a 3x3 convolution with its two gradients, on a batch of 8. The processor time is that of all
threads, which a busy machine disturbs less than wall time. `networks.conv` uses the algorithm where
`_suits_winograd` says so; here the same program is compiled without it as well.
"""

import argparse
import statistics
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import train_step

from sde_diffusion.networks import conv

# (height and width, channels in, channels out)
SHAPES = ((32, 128, 128), (16, 256, 256), (16, 512, 256), (8, 256, 256))


def step(x, kernel, dy):
    y, back = jax.vjp(conv.conv2d, x, kernel)
    return y, back(dy)


def processor_ms(size: int, channels: int, features: int, repeats: int) -> tuple[float, float]:
    """Milliseconds of processor time with Winograd's algorithm, and without; the medians."""
    rng = np.random.default_rng(0)
    shapes = (8, size, size, channels), (3, 3, channels, features), (8, size, size, features)
    arrays = [jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]
    with_it = jax.jit(step).lower(*arrays).compile()
    jax.clear_caches()
    with mock.patch.object(conv, "_suits_winograd", return_value=False):
        without = jax.jit(step).lower(*arrays).compile()
    times: tuple[list[float], list[float]] = ([], [])
    for compiled in (with_it, without):
        jax.block_until_ready(compiled(*arrays))
    for _ in range(repeats):
        for spent, compiled in zip(times, (with_it, without), strict=True):
            start = time.process_time()
            jax.block_until_ready(compiled(*arrays))
            spent.append(1e3 * (time.process_time() - start))
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=25)
    args = parser.parse_args()
    print(train_step.hardware(jax.devices()[0]))
    for size, channels, features in SHAPES:
        ours, direct = processor_ms(size, channels, features, args.repeats)
        print(
            f"{size}x{size}, {channels} to {features}: {ours:.1f} ms / {direct:.1f} ms "
            f"= {ours / direct:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
