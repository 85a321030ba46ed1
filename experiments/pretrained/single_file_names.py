"""The names in single files of Stable Diffusion 1.x and SDXL, as diffusers' converters read them.

    venv/bin/python experiments/pretrained/single_file_names.py

writes tests/reference/pretrained/single_files.json.gz: for the small folders of reference.py and
for the published models, {model: {name in the file: [part, name in diffusers, shape in the file]}}.
The name in diffusers is a list of three where queries, keys and values are one tensor. The names in
the file are made here from those of diffusers; then diffusers' own converters, which
`from_single_file` calls, must give each tensor its place, or this stops. The environment is that of
reference.py.
"""

import gzip
import json
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_utils as theirs

REFERENCE = Path(__file__).parents[2] / "tests" / "reference" / "pretrained"
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def unet_name(name: str, names: set[str], layers: int) -> str:
    """model.diffusion_model.* of a name in diffusers' U-Net."""
    for old, new in UNET.items():
        if name.startswith(f"{old}."):
            found = new + name.removeprefix(old)
            break
    else:
        side, level, kind, i, *rest = name.split(".")
        level, i, down = int(level), int(i), side == "down_blocks"
        start = level * (layers + 1) + down
        block = f"{'input' if down else 'output'}_blocks"
        attends = any(each.startswith(f"{side}.{level}.attentions.") for each in names)
        if kind == "downsamplers":
            found = ".".join([block, str(start + layers), "0.op", *rest[1:]])
        elif kind == "upsamplers":
            found = ".".join([block, str(start + layers), str(1 + attends), *rest])
        else:
            found = ".".join([block, str(start + i), str(int(kind == "attentions")), *rest])
    if ".resnets." in name:
        for old, new in RESNET.items():
            found = found.replace(f".{old}.", f".{new}.")
    return f"model.diffusion_model.{found}"


def vae_name(name: str, levels: int) -> str:
    """first_stage_model.* of a name in diffusers' AutoencoderKL."""
    found = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if ".mid_block.attentions.0." in found:
        for old, new in ATTENTION.items():
            found = found.replace(f".mid_block.attentions.0.{old}.", f".mid.attn_1.{new}.")
    found = found.replace(".mid_block.resnets.0.", ".mid.block_1.")
    found = found.replace(".mid_block.resnets.1.", ".mid.block_2.")
    for i in range(levels):
        for side, number in (("down", i), ("up", levels - 1 - i)):
            found = found.replace(f".{side}_blocks.{i}.resnets.", f".{side}.{number}.block.")
            found = found.replace(
                f".{side}_blocks.{i}.{side}samplers.0.", f".{side}.{number}.{side}sample."
            )
    return f"first_stage_model.{found}"


def open_clip_name(name: str) -> str:
    """conditioner.embedders.1.model.* of a name of transformers, without "in_proj"."""
    plain = {
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_projection.weight": "text_projection",
    }
    found = plain.get(name, name).replace("text_model.final_layer_norm", "ln_final")
    found = found.replace("text_model.encoder.layers", "transformer.resblocks")
    for old, new in (("layer_norm", "ln_"), ("self_attn", "attn"), (".fc1", ".c_fc")):
        found = found.replace(old, new)
    return f"conditioner.embedders.1.model.{found.replace('.fc2', '.c_proj')}"


Table = dict[str, list]


def table(parts: dict[str, torch.nn.Module]) -> Table:
    """The names of a file with these parts, checked with diffusers' converters."""
    made: Table = {}
    both = "text_encoder_2" in parts
    unet, vae = parts["unet"], parts["vae"]
    tensors = dict(unet.named_parameters())
    for name, value in tensors.items():
        original = unet_name(name, set(tensors), unet.config.layers_per_block)
        made[original] = ["unet", name, list(value.shape)]
    for name, value in vae.named_parameters():
        original = vae_name(name, len(vae.config.block_out_channels))
        square = ".mid.attn_1." in original and value.ndim == 2
        made[original] = ["vae", name, [*value.shape, 1, 1] if square else list(value.shape)]
    begin = f"{'conditioner.embedders.0' if both else 'cond_stage_model'}.transformer."
    for name, value in parts["text_encoder"].named_parameters():
        name = f"text_model.{name.removeprefix('text_model.')}"
        made[begin + name] = ["text_encoder", name, list(value.shape)]
    if both:
        second = dict(parts["text_encoder_2"].named_parameters())
        for name, value in second.items():
            if ".q_proj." in name:
                three = [name.replace(".q_", f".{part}_") for part in "qkv"]
                original = open_clip_name(name).replace("q_proj.", "in_proj_")
                shape = [3 * value.shape[0], *value.shape[1:]]
                made[original] = ["text_encoder_2", three, shape]
            elif not any(f".{part}_proj." in name for part in "kv"):
                shape = list(value.shape)
                shape = shape[::-1] if name == "text_projection.weight" else shape
                made[open_clip_name(name)] = ["text_encoder_2", name, shape]
    check(made, parts)
    return made


def check(made: Table, parts: dict[str, torch.nn.Module]) -> None:
    """Stop unless diffusers' converters give every tensor of the file the place in the table.

    Each tensor of the file is a number, so that its place afterwards tells which it was.
    """
    number = {name: i for i, name in enumerate(made)}
    # The shapes matter where the converters cut and transpose, so they are kept, and made small.
    file = {name: torch.tensor(float(number[name])).expand(made[name][2]) for name in made}
    converted = {
        "unet": theirs.convert_ldm_unet_checkpoint(dict(file), dict(parts["unet"].config)),
        "vae": theirs.convert_ldm_vae_checkpoint(dict(file), dict(parts["vae"].config)),
        "text_encoder": theirs.convert_ldm_clip_checkpoint(dict(file)),
    }
    if "text_encoder_2" in parts:
        converted["text_encoder_2"] = theirs.convert_open_clip_checkpoint(
            parts["text_encoder_2"], dict(file), prefix="conditioner.embedders.1.model."
        )
    for part, tensors in converted.items():
        wanted = {}
        for original, (owner, name, _) in made.items():
            for each in name if isinstance(name, list) else [name]:
                if owner == part:
                    wanted[each] = number[original]
        found = {name: int(value.reshape(-1)[0]) for name, value in tensors.items()}
        assert found == wanted, (part, set(found.items()) ^ set(wanted.items()))


def small(folder: Path) -> dict[str, torch.nn.Module]:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    return {name: part for name, part in pipe.components.items() if hasattr(part, "parameters")}


def published(sdxl: bool) -> dict[str, torch.nn.Module]:
    from published_shapes import LARGE, PUBLISHED, VAE

    configs = PUBLISHED["stable-diffusion-xl-base-1.0" if sdxl else "stable-diffusion-v1-5"]
    with torch.device("meta"):
        made = {
            "unet": diffusers.UNet2DConditionModel.from_config(configs["unet"][1]),
            "vae": diffusers.AutoencoderKL.from_config(VAE),
            "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**LARGE)),
        }
        if sdxl:
            config = transformers.CLIPTextConfig(**configs["text_encoder_2"][1])
            made["text_encoder_2"] = transformers.CLIPTextModelWithProjection(config)
    return made


def main() -> None:
    told = {
        "sd15": table(small(REFERENCE / "sd15")),
        "sdxl": table(small(REFERENCE / "sdxl")),
        "stable-diffusion-v1-5": table(published(sdxl=False)),
        "stable-diffusion-xl-base-1.0": table(published(sdxl=True)),
    }
    text = json.dumps(told, separators=(",", ":")).encode()
    (REFERENCE / "single_files.json.gz").write_bytes(gzip.compress(text, mtime=0))
    for model, names in told.items():
        print(model, len(names))


if __name__ == "__main__":
    main()
