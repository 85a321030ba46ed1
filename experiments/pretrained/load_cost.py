"""What it costs to load the U-Net of Stable Diffusion 1.5: seconds, and memory over parameters.

    python experiments/pretrained/load_cost.py --folder /tmp/sd15 [--diffusers venv/bin/python]

writes a folder with random float16 weights of the published shapes, if it is not there, and loads
it in a process of its own for each dtype; with --diffusers, by diffusers too. Peak memory is the
largest resident set, mapped files included, less that before loading; it is told over the bytes of
the parameters. Seconds are of the processor, not of the clock, so that other work beside it changes
them little.
"""

import argparse
import gzip
import json
import subprocess
import sys
from pathlib import Path

TABLE = Path(__file__).parents[2] / "tests" / "reference" / "pretrained" / "published.json.gz"

MEMORY = """
def peak_memory():
    # Not ru_maxrss, which begins with that of the process that started this one.
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
"""
OURS = """
import sys, time
import jax, jax.numpy as jnp
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import read_part
jnp.zeros(1).block_until_ready()
before, began = peak_memory(), time.process_time()
part = read_part(sys.argv[1], KINDS["UNet2DConditionModel"], dtype=jnp.dtype(sys.argv[2]))
jax.block_until_ready(part.params)
seconds = time.process_time() - began
peak = peak_memory() - before
size = sum(leaf.nbytes for leaf in jax.tree.leaves(part.params))
print(f"{seconds:.1f} {size / 2**30:.2f} {peak / size:.2f}")
"""
THEIRS = """
import sys, time
import torch
from diffusers import UNet2DConditionModel
before, began = peak_memory(), time.process_time()
dtype = getattr(torch, sys.argv[2])
model = UNet2DConditionModel.from_pretrained(sys.argv[1], torch_dtype=dtype)
seconds = time.process_time() - began
peak = peak_memory() - before
size = sum(p.nbytes for p in model.parameters())
print(f"{seconds:.1f} {size / 2**30:.2f} {peak / size:.2f}")
"""


def write(folder: Path, part: str = "unet") -> None:
    """Write a part of Stable Diffusion 1.5 with random float16 weights."""
    import numpy as np

    from sde_diffusion.pretrained import safetensors

    told = json.loads(gzip.decompress(TABLE.read_bytes()))["stable-diffusion-v1-5"][part]
    rng = np.random.default_rng(0)
    noise = (0.02 * rng.standard_normal(2**20, np.float32)).astype(np.float16)
    tensors = {name: np.resize(noise, shape) for name, shape in told["tensors"].items()}
    folder.mkdir(parents=True)
    safetensors.write(folder / "diffusion_pytorch_model.safetensors", tensors)
    config = {"_class_name": told["class"], "_diffusers_version": "0.42.1", **told["config"]}
    (folder / "config.json").write_text(json.dumps(config))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--diffusers", help="a Python that has diffusers")
    args = parser.parse_args()
    if not args.folder.exists():
        write(args.folder)
    print("| | dtype | seconds | parameters, GiB | peak over parameters |\n|---|---|---|---|---|")
    for dtype in ("float32", "bfloat16", "float16"):
        ways = {"ours": (sys.executable, OURS)}
        if args.diffusers:
            ways["diffusers"] = (args.diffusers, THEIRS)
        for name, (python, program) in ways.items():
            command = [python, "-c", MEMORY + program, str(args.folder), dtype]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, size, peak = done.stdout.split()[-3:]
            print(f"| {name} | {dtype} | {seconds} | {size} | {peak} |", flush=True)


if __name__ == "__main__":
    main()
