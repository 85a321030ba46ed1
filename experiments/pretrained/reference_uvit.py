"""U-ViT computed by plain operations of PyTorch from a table of random weights.

    venv/bin/python experiments/pretrained/reference_uvit.py

writes tests/reference/pretrained/uvit/{label,text}.{safetensors,npz}: weights under the names of
https://github.com/baofff/U-ViT, inputs and outputs. The equations are those of Bao et al. 2023,
"All are worth words: a ViT backbone for diffusion models", secs. 3.1 and 3.2, with the published
networks' choices: no bias of queries, keys and values, the exact GELU, an epsilon of 1e-5. The
environment is that of reference.py.
"""

import math

import numpy as np
import torch
from reference import TARGET, last, normal
from safetensors.torch import save_file
from torch.nn import functional

DEPTH, WIDTH, HEADS, PATCH, CHANNELS, SIDE, CLASSES, WORDS, STATES = 4, 16, 2, 2, 3, 8, 5, 3, 6
Weights = dict[str, torch.Tensor]


def layer_shapes(name: str, joins: bool) -> dict[str, tuple[int, ...]]:
    linear = {"attn.proj": (WIDTH, WIDTH), "mlp.fc1": (4 * WIDTH, WIDTH)}
    linear |= {"mlp.fc2": (WIDTH, 4 * WIDTH)}
    if joins:
        linear |= {"skip_linear": (WIDTH, 2 * WIDTH)}
    made = {f"{key}.weight": shape for key, shape in linear.items()}
    made |= {f"{key}.bias": shape[:1] for key, shape in linear.items()}
    made |= {"attn.qkv.weight": (3 * WIDTH, WIDTH)}
    made |= {f"norm{i}.{leaf}": (WIDTH,) for i in (1, 2) for leaf in ("weight", "bias")}
    return {f"{name}.{key}": shape for key, shape in made.items()}


def shapes(form: str) -> dict[str, tuple[int, ...]]:
    tokens = (SIDE // PATCH) ** 2
    out = PATCH**2 * CHANNELS
    made = {
        "patch_embed.proj.weight": (WIDTH, CHANNELS, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "decoder_pred.weight": (out, WIDTH),
        "decoder_pred.bias": (out,),
    }
    if form == "label":
        made |= {"label_emb.weight": (CLASSES + 1, WIDTH)}
        made |= {"pos_embed": (1, 2 + tokens, WIDTH)}
        made |= {"final_layer.weight": (CHANNELS, CHANNELS, 3, 3), "final_layer.bias": (CHANNELS,)}
    else:
        made |= {"context_embed.weight": (WIDTH, STATES), "context_embed.bias": (WIDTH,)}
        made |= {"pos_embed": (1, 1 + WORDS + tokens, WIDTH)}
    for i in range(DEPTH // 2):
        made |= layer_shapes(f"in_blocks.{i}", False) | layer_shapes(f"out_blocks.{i}", True)
    return made | layer_shapes("mid_block", False)


def weights(form: str) -> Weights:
    made = {}
    for seed, (name, shape) in enumerate(shapes(form).items()):
        value = normal(seed, *shape)
        if len(shape) == 1:
            value = 0.2 * value + (name.endswith("weight") and "norm" in name)
        elif name != "pos_embed" and not name.startswith("label"):
            value = value / math.prod(shape[1:]) ** 0.5
        made[name] = value
    return made


def linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def norm(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def layer(w: Weights, name: str, h: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
    if skip is not None:
        h = linear(w, f"{name}.skip_linear", torch.cat([h, skip], dim=-1))
    parts = linear(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1", h)).chunk(3, dim=-1)
    query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
    scores = query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5
    found = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    h = h + linear(w, f"{name}.attn.proj", found)
    inner = functional.gelu(linear(w, f"{name}.mlp.fc1", norm(w, f"{name}.norm2", h)))
    return h + linear(w, f"{name}.mlp.fc2", inner)


def time_token(t: torch.Tensor) -> torch.Tensor:
    half = WIDTH // 2
    angles = t[:, None] * torch.pow(10_000.0, -torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)[:, None]


def network(w: Weights, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
    patches = functional.conv2d(
        x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH
    )
    tokens = [time_token(t), patches.flatten(2).transpose(1, 2)]
    if "label_emb.weight" in w:
        tokens.insert(0, w["label_emb.weight"][cond][:, None])
    else:
        tokens.insert(1, linear(w, "context_embed", cond))
    h = torch.cat(tokens, dim=1) + w["pos_embed"]
    skips = []
    for i in range(DEPTH // 2):
        h = layer(w, f"in_blocks.{i}", h)
        skips.append(h)
    h = layer(w, "mid_block", h)
    for i in range(DEPTH // 2):
        h = layer(w, f"out_blocks.{i}", h, skips[-1 - i])
    side = SIDE // PATCH
    y = linear(w, "decoder_pred", norm(w, "norm", h)[:, -(side**2) :])
    y = y.reshape(len(x), side, side, PATCH, PATCH, CHANNELS).permute(0, 5, 1, 3, 2, 4)
    y = y.reshape(x.shape)
    if "final_layer.weight" in w:
        y = functional.conv2d(y, w["final_layer.weight"], w["final_layer.bias"], padding=1)
    return y


def main() -> None:
    folder = TARGET / "uvit"
    folder.mkdir(parents=True, exist_ok=True)
    x, t = normal(100, 2, CHANNELS, SIDE, SIDE), torch.tensor([981.0, 7.5])
    for form in ("label", "text"):
        w = weights(form)
        cond = torch.tensor([3, CLASSES]) if form == "label" else normal(101, 2, WORDS, STATES)
        out = network(w, x, t, cond)
        save_file(w, folder / f"{form}.safetensors")
        told = {"x": last(x), "t": t.numpy(), "cond": cond.numpy(), "out": last(out)}
        np.savez_compressed(folder / f"{form}.npz", **told)
        print(form, out.abs().max())


if __name__ == "__main__":
    main()
