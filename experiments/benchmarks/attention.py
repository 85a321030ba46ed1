"""Attention by chunks over attention by XLA's products on a CPU, and the memory of a TPU's kernel.

    taskset -c 0 python experiments/benchmarks/attention.py [--torch venv/bin/python]
    python experiments/benchmarks/attention.py --topology v5e:2x2

Seconds are of the processor, of a second call, forward and with the gradients of queries, keys and
values, in float32; with --torch, also of PyTorch's `scaled_dot_product_attention`, forward. With a
topology, which needs the extra `tpu`, the temporaries of a chip by the compiler, in bfloat16 with
two samples a chip and gradients; nothing runs.
"""

import argparse
import subprocess
import time

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from sde_diffusion import planning
from sde_diffusion.distributed import make_mesh
from sde_diffusion.layerwise import over
from sde_diffusion.networks.attention import attention

# Queries, keys, heads, features of a head: levels of Stable Diffusion 1.5, and its text.
SHAPES = [(4096, 4096, 8, 40), (1024, 1024, 8, 80), (256, 256, 8, 160), (4096, 77, 8, 40)]
LONG = [(4096, 4096, 16, 64), (4608, 4608, 24, 128)]  # SDXL's width, and Flux
TORCH = """
import sys, time, torch
torch.set_num_threads(1)
t, s, n, h = map(int, sys.argv[1:])
q, k = torch.ones(2, n, t, h), torch.ones(2, n, s, h)
for _ in range(2):
    began = time.process_time()
    torch.nn.functional.scaled_dot_product_attention(q, k, k)
    seconds = time.process_time() - began
print(seconds)
"""


def seconds(function, *args):
    jax.block_until_ready(function(*args))
    began = time.process_time()
    jax.block_until_ready(function(*args))
    return time.process_time() - began


def with_gradients(implementation):
    def total(query, key, value):
        return jnp.sum(attention(query, key, value, None, implementation).astype(jnp.float32) ** 2)

    return jax.value_and_grad(total, argnums=(0, 1, 2))


def on_this_cpu(torch):
    print("| queries x keys x heads x features | forward | with gradients | PyTorch, forward |")
    print("|---|---|---|---|")
    for t, s, n, h in SHAPES:
        keys = jax.random.split(jax.random.key(0))
        query, key = (jax.random.normal(k, (2, m, n, h)) for k, m in zip(keys, (t, s), strict=True))
        cells = []
        for make in (lambda i: lambda *args: attention(*args, None, i), with_gradients):
            ours, theirs = (seconds(jax.jit(make(i)), query, key, key) for i in ("chunked", "xla"))
            cells.append(f"{ours:.3f} / {theirs:.3f} s = {ours / theirs:.2f}")
        cells.append("")
        if torch:
            command = [torch, "-c", TORCH, *map(str, (t, s, n, h))]
            cells[-1] = f"{float(subprocess.check_output(command, text=True)):.3f} s"
        print(f"| {t} x {s} x {n} x {h} | {' | '.join(cells)} |", flush=True)


def on(topology):
    mesh = make_mesh(devices=planning.named(topology).devices)
    by_sample = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    print(f"| on {topology} | flash, MiB | xla, MiB |\n|---|---|---|")
    for t, s, n, h in LONG:
        query, key = (
            jax.ShapeDtypeStruct((2 * mesh.size, m, n, h), jnp.bfloat16, sharding=by_sample)
            for m in (t, s)
        )
        cells = []
        for implementation in ("flash", "xla"):
            step = jax.jit(with_gradients(implementation), in_shardings=(by_sample,) * 3)
            with over(mesh):
                program = planning.compile_program(step.lower(query, key, key), mesh.size)
            cells.append(f"{program.temporaries / 2**20:,.0f}")
        print(f"| {t} x {s} x {n} x {h} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", help="a Python that has PyTorch")
    parser.add_argument("--topology", help="such as v5e:2x2, in place of this CPU")
    args = parser.parse_args()
    if args.topology:
        on(args.topology)
    else:
        on_this_cpu(args.torch)


if __name__ == "__main__":
    main()
