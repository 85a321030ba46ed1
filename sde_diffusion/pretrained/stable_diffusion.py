"""Stable Diffusion 1.x, 2.x and SDXL, from folders as diffusers writes them."""

import dataclasses
from pathlib import Path
from typing import Any

from sde_diffusion.codec import Codec
from sde_diffusion.flow_map import to_the_data
from sde_diffusion.model import from_network
from sde_diffusion.pipeline import Pipeline, Text
from sde_diffusion.pretrained.clip_tokens import read_clip_tokenizer
from sde_diffusion.pretrained.codec import read_codec
from sde_diffusion.pretrained.consistency import STEPS as FEW_STEPS
from sde_diffusion.pretrained.folder import read_json
from sde_diffusion.pretrained.kinds import CLIP_TEXT, CLIP_TEXT_PROJECTED, UNET_CONDITION
from sde_diffusion.pretrained.part import Kind, read_part
from sde_diffusion.pretrained.prompts import Encoder, OneEncoder, TwoEncoders
from sde_diffusion.pretrained.schedule import read_schedule

LCM_GUIDANCE = 8.5  # of diffusers' LatentConsistencyModelPipeline


def stable_diffusion(folder: Path, index: dict[str, Any], **options: Any) -> Pipeline:
    """Stable Diffusion 1.x or 2.x, also as a latent consistency model (LCM)."""
    return _pipeline(folder, stable_diffusion_text(folder, index, **options), 7.5, options)


def stable_diffusion_xl(folder: Path, index: dict[str, Any], **options: Any) -> Pipeline:
    """SDXL, the base model."""
    return _pipeline(folder, stable_diffusion_xl_text(folder, index, **options), 5.0, options)


def stable_diffusion_text(folder: Path, index: dict[str, Any], **options: Any) -> Text:
    """The text encoder of Stable Diffusion 1.x and 2.x."""
    return OneEncoder(_encoder(folder, "", CLIP_TEXT, options))


def stable_diffusion_xl_text(folder: Path, index: dict[str, Any], **options: Any) -> Text:
    """The text encoders of SDXL."""
    return TwoEncoders(
        _encoder(folder, "", CLIP_TEXT, options),
        _encoder(folder, "_2", CLIP_TEXT_PROJECTED, options),
        bool(index.get("force_zeros_for_empty_prompt", True)),
    )


def _encoder(folder: Path, suffix: str, kind: Kind, options: dict[str, Any]) -> Encoder:
    tokenizer = read_clip_tokenizer(folder / f"tokenizer{suffix}")
    module, params, _ = read_part(folder / f"text_encoder{suffix}", kind, **options)
    return Encoder(tokenizer, module, params)


def _pipeline(folder: Path, text: Text, guidance: float, options: dict[str, Any]) -> Pipeline:
    path = folder / "scheduler" / "scheduler_config.json"
    schedule = read_schedule(read_json(path), source=str(path))
    codec, codec_params = read_codec(folder / "vae", **options)
    network, params, config = read_part(folder / "unet", UNET_CONDITION, **options)
    channels = codec.module.latent_channels
    fills_in = network.in_channels == 2 * channels + 1
    if network.in_channels != channels and not fills_in:
        raise ValueError(
            f"{folder / 'unet'}: a network of {network.in_channels} channels for latents of "
            f"{channels} takes an image as well, and is not one that fills in a part of it"
        )
    model = from_network(schedule.sde, network.apply, {"params": params}, schedule.parameterization)
    told = network.time_cond_proj_dim is not None
    if schedule.origin is not None:
        model, guidance = to_the_data(model), LCM_GUIDANCE if told else 1.0
    made = Pipeline(
        model,
        codec,
        codec_params,
        text,
        schedule.grid,
        schedule.solver,
        _size(config, codec),
        channels,
        guidance,
        told,
        clip=schedule.clip,
        fills_in=fills_in,
    )
    return made if schedule.origin is None else dataclasses.replace(made, steps=FEW_STEPS)


def _size(config: dict[str, Any], codec: Codec) -> tuple[int, int]:
    """Height and width in pixels of a config whose sample_size counts latents."""
    latents = config.get("sample_size") or 64
    height, width = latents if isinstance(latents, list) else (latents, latents)
    return height * codec.factor, width * codec.factor
