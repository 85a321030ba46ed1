"""What a device holds of a large transformer, over which layers are split, on paper.

A DiT of 1.0 B parameters is compiled for more and more devices, ahead of time: a step of training
with Adam and one average, and a step of DDIM. Nothing is run or allocated. Its layers are scanned,
and gathered one at a time where they are used (`sde_diffusion/layerwise.py`).

    python experiments/pods/memory.py --out experiments/pods/memory.md
"""

import argparse
import importlib.metadata
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import sde_diffusion as sd
from sde_diffusion import distributed, planning, samplers, training
from sde_diffusion.networks import DiT
from sde_diffusion.objectives import denoising_loss, of_loss

SDE, EVENT, CLASSES = sd.Flow(), (32, 32, 4), 1000
NETWORK = DiT(depth=24, features=1536, num_heads=16, num_classes=CLASSES, remat="blocks")
# Topology, dtype of the computation, and over how many devices the layers are split. A v5e chip has
# 16 GiB, which on fewer than four chips the state alone exceeds.
RUNS = (("cpu:8", "float32", (1, 2, 4, 8)), ("v5e:4x4", "bfloat16", (4, 8, 16)))
PER_DEVICE = 4  # images
GIB = 2**30
HEADER = """# Memory of a large transformer on paper

A DiT of {billions:.2f} B parameters ({depth} layers of {layer:.2f} GiB in float32), \
{per_device} images of 32x32x4 on each device, rematerialized by layers; one update with Adam, \
clipping and an average, and one step of DDIM, compiled ahead of time by {versions}. State is \
the parameters, their two moments and the average; temporaries are everything else that a device \
holds, the gradient included. All in GiB a device. The table was made by

    {command}

| topology | computes in | split over | | state | state x devices | temporaries | whole layers in \
them |
|---|---|---|---|---|---|---|---|
"""


def model(network: DiT, params: Any) -> sd.Model:
    return sd.from_network(SDE, network.apply, {"params": params}, "flow")


def init_params(network: DiT, key: jax.Array) -> Any:
    return network.init(key, jnp.zeros((1, *EVENT)), jnp.ones(1))["params"]


def training_step(network: DiT, mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    def loss(params: Any, key: jax.Array, batch: Any) -> jax.Array:
        return denoising_loss(key, model(network, params), batch["x"], cond=batch["label"])

    recipe = training.Recipe(
        partial(init_params, network),
        of_loss(loss),
        training.make_optimizer("adam", learning_rate=1e-4, clip_norm=1.0),
        (0.9999,),
        options=training.StepOptions(gather_dtype=network.dtype),
    )
    size = PER_DEVICE * mesh.size
    batch = {
        "x": jax.ShapeDtypeStruct((size, *EVENT), jnp.float32),
        "label": jax.ShapeDtypeStruct((size,), jnp.int32),
    }
    return planning.lower_training_step(mesh, batch, recipe)


def sampling_step(network: DiT, mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    return planning.lower_sampler_step(
        mesh,
        partial(model, network),
        jax.eval_shape(partial(init_params, network), jax.random.key(0)),
        (PER_DEVICE * mesh.size, *EVENT),
        solver=samplers.DDIM(),
        grid=sd.grids.uniform(SDE, 2, t_max=0.9),
        cond=jax.ShapeDtypeStruct((PER_DEVICE * mesh.size,), jnp.int32),
    )


def row(kind: str, topology: planning.Topology, dtype: str, fsdp: int) -> dict[str, Any]:
    """The memory of a device of which `fsdp` hold a copy of the state together."""
    # A TPU's program is for all of its chips; a CPU's is for as many as there are parts.
    devices = topology.devices if topology.name.startswith("v") else topology.devices[:fsdp]
    mesh = distributed.make_mesh(fsdp=fsdp, devices=devices)
    lower = {"train": training_step, "sample": sampling_step}[kind]
    program = planning.compile_program(lower(NETWORK.clone(dtype=dtype), mesh), mesh.size)
    return {
        "topology": topology.name,
        "dtype": dtype,
        "fsdp": fsdp,
        "kind": kind,
        "state": program.arguments,
        "temporaries": program.temporaries,
    }


def layer_bytes() -> int:
    """Bytes of the parameters of one layer in float32."""
    params = jax.eval_shape(partial(init_params, NETWORK), jax.random.key(0))
    return sum(4 * leaf.size for leaf in jax.tree.leaves(params["scanned_blocks"])) // NETWORK.depth


def table(rows: Sequence[dict[str, Any]], layer: int) -> str:
    """The rows in Markdown."""
    return "\n".join(
        f"| {each['topology']} | {each['dtype']} | {each['fsdp']} | {each['kind']} "
        f"| {each['state'] / GIB:.2f} | {each['fsdp'] * each['state'] / GIB:.1f} "
        f"| {each['temporaries'] / GIB:.2f} | {each['temporaries'] / layer:.1f} |"
        for each in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="memory.md")
    args = parser.parse_args()
    rows = []
    for name, dtype, splits in RUNS:
        topology = planning.named(name)
        for kind in ("train", "sample"):
            for fsdp in splits:
                rows.append(row(kind, topology, dtype, fsdp))
                print(rows[-1], flush=True)
    params = jax.eval_shape(partial(init_params, NETWORK), jax.random.key(0))
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("jaxlib", "libtpu"))
    header = HEADER.format(
        billions=sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e9,
        depth=NETWORK.depth,
        layer=layer_bytes() / GIB,
        per_device=PER_DEVICE,
        versions=" and ".join(versions),
        command=f"python experiments/pods/memory.py --out {args.out}",
    )
    Path(args.out).write_text(header + table(rows, layer_bytes()) + "\n")


if __name__ == "__main__":
    main()
