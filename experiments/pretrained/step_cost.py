"""What a guided step and a decoded picture of Stable Diffusion 1.5 cost at 512x512, float32.

    taskset -c 0 python experiments/pretrained/step_cost.py --folder /tmp/sd15 \\
        --diffusers venv/bin/python [--part unet|vae|convolution]

One evaluation of the U-Net for a text and a negative text (latents [2, 64, 64, 4]), one picture of
the decoder, and a bare convolution of the U-Net's first level, by us and by diffusers, each in a
process of its own on one core. Weights are random. Seconds are of the processor, not of the clock;
the second call is measured, so compilation is not in them. Peak memory is the largest resident set
less that before the weights were read.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from load_cost import MEMORY, write

TIMED = """
import sys, time
import numpy as np
def timed(call):
    call()
    began = time.process_time()
    call()
    return time.process_time() - began
"""
OURS = {
    "start": """
import jax, jax.numpy as jnp
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import read_part
jnp.zeros(1).block_until_ready()
before = peak_memory()
def compiled(function, *arguments):
    program = jax.jit(function).lower(*arguments).compile()
    temporaries = program.memory_analysis().temp_size_in_bytes
    print(f"temporaries: {temporaries / 2**30:.2f} GiB", file=sys.stderr)
    return program
""",
    "unet": """
module, params, _ = read_part(sys.argv[1], KINDS["UNet2DConditionModel"])
x, t, text = jnp.ones((2, 64, 64, 4)), jnp.full(2, 500.0), jnp.ones((2, 77, 768))
arguments = {"params": params}, x, t, {"text": text}
run = compiled(module.apply, *arguments)
call = lambda: run(*arguments).block_until_ready()
""",
    "vae": """
from sde_diffusion.pretrained.codec import read_codec
codec, params = read_codec(sys.argv[1])
z = jnp.ones((1, 64, 64, 4))
run = compiled(lambda params, z: codec.decode(params, z), params, z)
call = lambda: run(params, z).block_until_ready()
""",
    "convolution": """
from sde_diffusion.networks.conv import conv2d
x, kernel = jnp.ones((2, 64, 64, 320)), jnp.ones((3, 3, 320, 320))
run = compiled(lambda x, kernel: conv2d(x, kernel, 1, "SAME"), x, kernel)
call = lambda: run(x, kernel).block_until_ready()
""",
}
THEIRS = {
    "start": """
import torch, diffusers
torch.set_num_threads(1)
torch.set_grad_enabled(False)
before = peak_memory()
""",
    "unet": """
model = diffusers.UNet2DConditionModel.from_pretrained(sys.argv[1], torch_dtype=torch.float32)
x, t, text = torch.ones(2, 4, 64, 64), torch.full((2,), 500), torch.ones(2, 77, 768)
call = lambda: model(x, t, encoder_hidden_states=text)
""",
    "vae": """
model = diffusers.AutoencoderKL.from_pretrained(sys.argv[1], torch_dtype=torch.float32)
z = torch.ones(1, 4, 64, 64)
call = lambda: model.decode(z / 0.18215)
""",
    "convolution": """
x, layer = torch.ones(2, 320, 64, 64), torch.nn.Conv2d(320, 320, 3, padding=1, bias=False)
call = lambda: layer(x)
""",
}
END = """
seconds = timed(call)
print(f"{seconds:.3f} {(peak_memory() - before) / 2**30:.2f}")
"""
PARTS = ("unet", "vae", "convolution")


def measured(python: str, program: dict[str, str], part: str, folder: Path) -> tuple[float, float]:
    """Seconds of the processor, and GiB."""
    text = MEMORY + TIMED + program["start"] + program[part] + END
    done = subprocess.run([python, "-c", text, str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    for line in done.stderr.splitlines():
        if line.startswith("temporaries"):
            print(line, file=sys.stderr)
    seconds, memory = done.stdout.split()[-2:]
    return float(seconds), float(memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--diffusers", required=True, help="a Python that has diffusers")
    parser.add_argument("--part", choices=PARTS, action="append")
    args = parser.parse_args()
    print("| part | time, ours over theirs | peak memory, ours over theirs |\n|---|---|---|")
    for part in args.part or PARTS:
        folder = args.folder / part
        if part != "convolution" and not folder.exists():
            write(folder, part)
        ours = measured(sys.executable, OURS, part, folder)
        theirs = measured(args.diffusers, THEIRS, part, folder)
        time, memory = (mine / other for mine, other in zip(ours, theirs, strict=True))
        print(f"| {part} | {time:.2f} | {memory:.2f} |", flush=True)
        print(f"ours {ours}, theirs {theirs}", file=sys.stderr)


if __name__ == "__main__":
    main()
