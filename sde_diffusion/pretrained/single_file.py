"""One file with the weights of a whole pipeline, under the names of the original repositories.

Stable Diffusion 1.x and SDXL are also published as one file of safetensors, whose names are those
of the modules they were trained with. The tables below give each of them the part and the name
that diffusers has for it. A pattern is that of `tensors.renamed`.

    model.diffusion_model.{name}                          unet
    first_stage_model.{name}                              vae
    cond_stage_model.transformer.{name}                   text_encoder of SD 1.x
    conditioner.embedders.0.transformer.{name}            text_encoder of SDXL
    conditioner.embedders.1.model.{name}                  text_encoder_2, as OpenCLIP names it

The numbers of blocks count on through a U-Net, so they depend on its levels and layers, which
config.json tells.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sde_diffusion.pretrained.tensors import Renames, Tensors, renamed

UNET, VAE, CLIP, CLIP_2 = "unet", "vae", "text_encoder", "text_encoder_2"

FAMILIES: dict[str, dict[str, str]] = {
    "StableDiffusionPipeline": {
        "model.diffusion_model.": UNET,
        "first_stage_model.": VAE,
        "cond_stage_model.transformer.": CLIP,
    },
    "StableDiffusionXLPipeline": {
        "model.diffusion_model.": UNET,
        "first_stage_model.": VAE,
        "conditioner.embedders.0.transformer.": CLIP,
        "conditioner.embedders.1.model.": CLIP_2,
    },
}
"""The part that each beginning of a name stands for, by the pipeline's class in diffusers."""

OF_TRAINING: Renames = {
    "model_ema.{name}": None,
    "denoiser.sigmas": None,
    **dict.fromkeys(("betas", "alphas_cumprod", "alphas_cumprod_prev", "logvar"), None),
    **dict.fromkeys(("sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"), None),
    **dict.fromkeys(("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod"), None),
    **dict.fromkeys(("sqrt_recipm1_alphas_cumprod", "posterior_variance"), None),
    **dict.fromkeys(("posterior_log_variance_clipped", "posterior_mean_coef1"), None),
    **dict.fromkeys(("posterior_mean_coef2", "scale_factor"), None),
}
"""The schedule's tables, and the average of the weights beside the weights."""

RESNET: Renames = {
    "{block}.in_layers.0.{leaf}": "{block}.norm1.{leaf}",
    "{block}.in_layers.2.{leaf}": "{block}.conv1.{leaf}",
    "{block}.emb_layers.1.{leaf}": "{block}.time_emb_proj.{leaf}",
    "{block}.out_layers.0.{leaf}": "{block}.norm2.{leaf}",
    "{block}.out_layers.3.{leaf}": "{block}.conv2.{leaf}",
    "{block}.skip_connection.{leaf}": "{block}.conv_shortcut.{leaf}",
    "{block}.nin_shortcut.{leaf}": "{block}.conv_shortcut.{leaf}",
}

AUTOENCODER: Renames = {
    "{side}.norm_out.{leaf}": "{side}.conv_norm_out.{leaf}",
    "{side}.mid.block_1.{leaf}": "{side}.mid_block.resnets.0.{leaf}",
    "{side}.mid.block_2.{leaf}": "{side}.mid_block.resnets.1.{leaf}",
    "{side}.mid.attn_1.norm.{leaf}": "{side}.mid_block.attentions.0.group_norm.{leaf}",
    "{side}.mid.attn_1.q.{leaf}": "{side}.mid_block.attentions.0.to_q.{leaf}",
    "{side}.mid.attn_1.k.{leaf}": "{side}.mid_block.attentions.0.to_k.{leaf}",
    "{side}.mid.attn_1.v.{leaf}": "{side}.mid_block.attentions.0.to_v.{leaf}",
    "{side}.mid.attn_1.proj_out.{leaf}": "{side}.mid_block.attentions.0.to_out.0.{leaf}",
    "encoder.down.{i}.block.{j}.{leaf}": "encoder.down_blocks.{i}.resnets.{j}.{leaf}",
    "encoder.down.{i}.downsample.{leaf}": "encoder.down_blocks.{i}.downsamplers.0.{leaf}",
}

OPEN_CLIP: Renames = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "transformer.resblocks.{i}.ln_1.{leaf}": "text_model.encoder.layers.{i}.layer_norm1.{leaf}",
    "transformer.resblocks.{i}.attn.{leaf}": "text_model.encoder.layers.{i}.self_attn.{leaf}",
    "transformer.resblocks.{i}.ln_2.{leaf}": "text_model.encoder.layers.{i}.layer_norm2.{leaf}",
    "transformer.resblocks.{i}.mlp.c_fc.{leaf}": "text_model.encoder.layers.{i}.mlp.fc1.{leaf}",
    "transformer.resblocks.{i}.mlp.c_proj.{leaf}": "text_model.encoder.layers.{i}.mlp.fc2.{leaf}",
    "ln_final.{leaf}": "text_model.final_layer_norm.{leaf}",
    "text_projection": "text_projection.weight",
    "logit_scale": None,
    "attn_mask": None,
}


def unet_blocks(levels: int, layers: int) -> Renames:
    """The blocks of a U-Net with `layers` residual blocks a level on the way down."""
    table = {
        "time_embed.0.{leaf}": "time_embedding.linear_1.{leaf}",
        "time_embed.2.{leaf}": "time_embedding.linear_2.{leaf}",
        "label_emb.0.0.{leaf}": "add_embedding.linear_1.{leaf}",
        "label_emb.0.2.{leaf}": "add_embedding.linear_2.{leaf}",
        "input_blocks.0.0.{leaf}": "conv_in.{leaf}",
        "middle_block.0.{leaf}": "mid_block.resnets.0.{leaf}",
        "middle_block.1.{leaf}": "mid_block.attentions.0.{leaf}",
        "middle_block.2.{leaf}": "mid_block.resnets.1.{leaf}",
        "out.0.{leaf}": "conv_norm_out.{leaf}",
        "out.2.{leaf}": "conv_out.{leaf}",
    }
    for level in range(levels):
        ours, first = f"down_blocks.{level}", 1 + level * (layers + 1)
        for i in range(layers):
            theirs = f"input_blocks.{first + i}"
            table[f"{theirs}.0.{{leaf}}"] = f"{ours}.resnets.{i}.{{leaf}}"
            table[f"{theirs}.1.{{leaf}}"] = f"{ours}.attentions.{i}.{{leaf}}"
        table[f"input_blocks.{first + layers}.0.op.{{leaf}}"] = (
            f"{ours}.downsamplers.0.conv.{{leaf}}"
        )
    for level in range(levels):
        ours, first = f"up_blocks.{level}", level * (layers + 1)
        for i in range(layers + 1):
            theirs = f"output_blocks.{first + i}"
            table[f"{theirs}.0.{{leaf}}"] = f"{ours}.resnets.{i}.{{leaf}}"
            # What makes the picture larger is last in its block, after an attention if it has one.
            table[f"{theirs}.1.conv.{{leaf}}"] = f"{ours}.upsamplers.0.conv.{{leaf}}"
            table[f"{theirs}.2.conv.{{leaf}}"] = f"{ours}.upsamplers.0.conv.{{leaf}}"
            table[f"{theirs}.1.{{leaf}}"] = f"{ours}.attentions.{i}.{{leaf}}"
    return table


def autoencoder_blocks(levels: int) -> Renames:
    """The blocks of a decoder, which are numbered from the picture and not from the latents."""
    table = dict(AUTOENCODER)
    for level in range(levels):
        theirs, ours = f"decoder.up.{levels - 1 - level}", f"decoder.up_blocks.{level}"
        table[f"{theirs}.block.{{j}}.{{leaf}}"] = f"{ours}.resnets.{{j}}.{{leaf}}"
        table[f"{theirs}.upsample.{{leaf}}"] = f"{ours}.upsamplers.0.{{leaf}}"
    return table


def family(tensors: Tensors, source: str) -> str:
    """The pipeline's class of a file with these names; ValueError for a file of another kind."""
    fitting = {
        name: begins
        for name, begins in FAMILIES.items()
        if all(any(key.startswith(begin) for key in tensors) for begin in begins)
    }
    if not fitting:
        raise ValueError(
            f"{source} is not the single file of a pipeline that is supported: Stable Diffusion "
            f"1.x has {_list(FAMILIES['StableDiffusionPipeline'])}, and SDXL "
            f"{_list(FAMILIES['StableDiffusionXLPipeline'])}"
        )
    return next(iter(fitting))


def split(
    tensors: Tensors, configs: Mapping[str, Mapping[str, Any]], source: str
) -> dict[str, dict[str, np.ndarray]]:
    """The tensors of each part under diffusers' names, without a copy of any of them.

    configs: config.json of each part, by its folder's name.

    Raises ValueError for a file of another kind, and for tensors that no part has.
    """
    parts: dict[str, dict[str, np.ndarray]] = {}
    begins, left = FAMILIES[family(tensors, source)], []
    for name, tensor in renamed(tensors, OF_TRAINING).items():
        begin = next((begin for begin in begins if name.startswith(begin)), None)
        if begin is None:
            left.append(name)
        else:
            parts.setdefault(begins[begin], {})[name.removeprefix(begin)] = tensor
    if left:
        raise ValueError(f"{source}: no part has the tensors {', '.join(left[:5])}")
    levels = {part: len(configs[part]["block_out_channels"]) for part in (UNET, VAE)}
    layers = configs[UNET].get("layers_per_block", 2)
    parts[UNET] = renamed(renamed(parts[UNET], unet_blocks(levels[UNET], layers)), RESNET)
    parts[VAE] = renamed(renamed(parts[VAE], autoencoder_blocks(levels[VAE])), RESNET)
    parts[VAE] = {name: _dense(name, tensor) for name, tensor in parts[VAE].items()}
    if CLIP_2 in parts:
        parts[CLIP_2] = renamed(_one_by_one(parts[CLIP_2]), OPEN_CLIP)
    return parts


def _dense(name: str, tensor: np.ndarray) -> np.ndarray:
    """The 1x1 convolutions of an autoencoder's attention as the dense layers that they are."""
    one_pixel = ".attentions." in name and tensor.ndim == 4
    return tensor.reshape(tensor.shape[:2]) if one_pixel else tensor


def _one_by_one(tensors: Tensors) -> dict[str, np.ndarray]:
    """OpenCLIP's tensors, with queries, keys and values apart and its projection transposed."""
    made = {}
    for name, tensor in tensors.items():
        block, found, leaf = name.partition(".attn.in_proj_")
        if found:
            for part, rows in zip("qkv", np.split(tensor, 3), strict=True):
                made[f"{block}.attn.{part}_proj.{leaf}"] = rows
        else:
            made[name] = tensor.T if name == "text_projection" else tensor
    return made


def _list(begins: Mapping[str, str]) -> str:
    *most, last = begins
    return f"{', '.join(f'{begin}*' for begin in most)} and {last}*"
