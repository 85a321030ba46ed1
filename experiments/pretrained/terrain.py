"""A consistency model of terrains with its real weights: our U-Net beside onnxruntime.

    pip download --no-deps adaptive-terrain-diffusion==0.4.2
    unzip -q adaptive_terrain_diffusion-*.whl 'terrain_diffusion/*'
    python experiments/pretrained/terrain.py --theirs venv/bin/python --out terrain.png \\
        --model terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx

`theirs` is a Python with onnx and onnxruntime. The network is ADM's U-Net under the names of its
authors, with the level of noise and a difficulty from 0 to 1 as what it is told. Prints the largest
difference of the denoised height maps over their largest value, at five levels of noise. The
picture has samples by one evaluation, a column for each difficulty.
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import sde_diffusion as sd
from sde_diffusion import flow_map, samplers
from sde_diffusion.networks.unet2d import UNet2D
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import shapes
from sde_diffusion.pretrained.tensors import to_params

SIZE, LEVELS = 128, (0.01, 0.2, 1.0, 10.0, 80.0)
SIGMA_DATA, SIGMA_MIN, SIGMA_MAX = 0.5, 0.002, 80.0
LAYERS = 4
NETWORK = UNet2D(
    in_channels=1,
    out_channels=1,
    block_out_channels=(32, 32, 64, 96, 128),
    layers_per_block=LAYERS,
    down_block_types=(*("ResnetDownsampleBlock2D",) * 2, *("AttnDownBlock2D",) * 3),
    up_block_types=(*("AttnUpBlock2D",) * 3, *("ResnetUpsampleBlock2D",) * 2),
    downsample_type="resnet",
    upsample_type="resnet",
    resnet_time_scale_shift="scale_shift",
    class_embed_type="identity",
    attention_head_dim=32,
    attn_norm_num_groups=32,
)
# The file names the weights of all layers but the normalizations, which are known by what follows.
THEIRS = """
import sys
import numpy as np
import onnx
import onnxruntime
model = onnx.load(sys.argv[1])
arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
tensors = {name: array for name, array in arrays.items() if name.startswith("network.")}
before = {"in_layers.2": "in_layers.0", "out_layers.3": "out_layers.0", "qkv": "norm", "2": "0"}
pair = []
for node in model.graph.node:
    if node.op_type == "InstanceNormalization":
        pair = []
    fixed = [arrays[name] for name in node.input if name in arrays]
    if node.op_type in ("Mul", "Add") and fixed and fixed[0].ndim == 3 and len(pair) < 2:
        pair.append(fixed[0].ravel())
    if node.op_type == "Conv" and len(pair) == 2:
        layer = node.input[1].removesuffix(".weight")
        last = next(last for last in before if layer.endswith("." + last))
        name = layer.removesuffix(last) + before[last]
        tensors[name + ".weight"], tensors[name + ".bias"] = pair
        pair = []
given = dict(np.load(sys.argv[2]))
out = onnxruntime.InferenceSession(sys.argv[1]).run(["denoised"], given)[0]
np.savez(sys.argv[3], out=out, **tensors)
"""
RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}
OTHERS = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}


def place(group: str, index: int, part: int, layer: str) -> str:
    """The block of diffusers for a block of the authors, whose parts are numbered in order."""
    level, i = divmod(index - (group == "input"), LAYERS + 1)
    side = "down" if group == "input" else "up"
    if layer in (*ATTENTION, "qkv"):
        return f"{side}_blocks.{level}.attentions.{i}"
    resamples = i == LAYERS if group == "input" else part > 0
    return f"{side}_blocks.{level}." + (f"{side}samplers.0" if resamples else f"resnets.{i}")


def renamed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of ADM's U-Net under the names of diffusers."""
    made = {}
    for name, tensor in tensors.items():
        layer, leaf = name.rsplit(".", 1)
        if layer in OTHERS:
            made[f"{OTHERS[layer]}.{leaf}"] = tensor
            continue
        block, layer = re.fullmatch(r"(\w+_blocks?(?:\.\d+){1,2})\.(.+)", layer).groups()
        kind, *numbers = block.split(".")
        if kind == "middle_block":
            block = f"mid_block.{MIDDLE[numbers[0]]}"
        else:
            block = place(kind.removesuffix("_blocks"), *map(int, numbers), layer)
        if layer == "qkv":
            for to, part in zip("qkv", np.split(tensor, 3), strict=True):
                made[f"{block}.to_{to}.{leaf}"] = part
        else:
            made[f"{block}.{(RESIDUAL | ATTENTION)[layer]}.{leaf}"] = tensor
    return made


def consistency_model(tensors: Mapping[str, np.ndarray]) -> sd.Model:
    """Their model on our SDE of the same noise, told the difficulty [B]."""
    tensors = {name.removeprefix("network."): tensor for name, tensor in tensors.items()}
    told = {name: tensors.pop(name) for name in list(tensors) if name.startswith("label_emb.")}
    params = to_params(shapes(KINDS["UNet2DModel"], NETWORK), renamed(tensors), source="the model")

    def dense(i: int, x: jax.Array) -> jax.Array:
        return x @ told[f"label_emb.{i}.weight"].T + told[f"label_emb.{i}.bias"]

    def denoised(x: jax.Array, sigma: jax.Array, difficulty: jax.Array) -> jax.Array:
        label = dense(2, jax.nn.silu(dense(0, difficulty[:, None])))
        s = sigma[:, None, None, None]
        skip = SIGMA_DATA**2 / ((s - SIGMA_MIN) ** 2 + SIGMA_DATA**2)
        size = jnp.sqrt(s**2 + SIGMA_DATA**2)
        out = NETWORK.apply({"params": params}, x / size, 250.0 * jnp.log(sigma), label)
        return jnp.clip(skip * x + SIGMA_DATA * (s - SIGMA_MIN) / size * out, -1.0, 1.0)

    return flow_map.to_the_data(sd.from_x0(sd.EDM(t_min=SIGMA_MIN, t_max=SIGMA_MAX), denoised))


def theirs(python: str, file: Path, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights by name, and `out`, what onnxruntime makes of what is given."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(inputs, **given)
        command = [python, "-c", THEIRS, str(file), str(inputs), str(outputs)]
        subprocess.run(command, check=True)
        return dict(np.load(outputs))


def draw(model: sd.Model, out: Path) -> None:
    from matplotlib import pyplot as plt

    difficulty = jnp.linspace(0.0, 1.0, 6)
    made = sd.sample(
        jax.random.key(0),
        model,
        (len(difficulty), SIZE, SIZE, 1),
        solver=samplers.FlowMap(),
        grid=jnp.array([SIGMA_MAX, SIGMA_MIN]),
        cond=difficulty,
    )
    _, axes = plt.subplots(1, len(difficulty), figsize=(9, 1.7), layout="constrained")
    for axis, x, told in zip(axes, made.x, difficulty, strict=True):
        axis.imshow(x[..., 0], cmap="terrain", vmin=-1, vmax=1)
        axis.set_title(f"{told:.1f}", fontsize=8)
        axis.axis("off")
    plt.savefig(out, dpi=110)
    print(f"{out}: {len(difficulty)} samples by {made.nfe} evaluation each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--theirs", required=True, help="a Python with onnx and onnxruntime")
    parser.add_argument("--out", type=Path, help="of the picture; none if absent")
    args = parser.parse_args()
    noise = np.random.default_rng(0).standard_normal((len(LEVELS), 1, SIZE, SIZE), np.float32)
    sigma, difficulty = np.float32(LEVELS), np.linspace(0.0, 1.0, len(LEVELS), dtype=np.float32)
    given = {"noisy": noise * sigma[:, None, None, None], "sigma": sigma, "difficulty": difficulty}
    told = theirs(args.theirs, args.model, given)
    out = told.pop("out")
    model = consistency_model(told)
    x = jnp.asarray(given["noisy"]).transpose(0, 2, 3, 1)
    made = jax.jit(lambda x: model(x, sigma, difficulty).x0)(x).transpose(0, 3, 1, 2)
    for level, mine, other in zip(LEVELS, np.asarray(made), out, strict=True):
        print(f"sigma {level}: {np.max(np.abs(mine - other)) / np.max(np.abs(other)):.1e}")
    if args.out is not None:
        draw(model, args.out)


if __name__ == "__main__":
    main()
