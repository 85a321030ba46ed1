"""Stable Diffusion 3 and 3.5, Flux, and DiT, from folders as diffusers writes them."""

from pathlib import Path
from typing import Any

from sde_diffusion.codec import Codec
from sde_diffusion.model import from_network
from sde_diffusion.pipeline import Pipeline, Text
from sde_diffusion.pretrained.clip_tokens import read_clip_tokenizer
from sde_diffusion.pretrained.codec import read_codec
from sde_diffusion.pretrained.flow_schedule import FlowSchedule, read_flow_schedule
from sde_diffusion.pretrained.folder import read_json
from sde_diffusion.pretrained.joint_prompts import (
    T5,
    NoT5,
    PooledAndStates,
    ThreeEncoders,
    classes,
)
from sde_diffusion.pretrained.kinds import CLIP_TEXT, CLIP_TEXT_PROJECTED, KINDS
from sde_diffusion.pretrained.part import Kind, Part, build, read_part
from sde_diffusion.pretrained.prompts import Encoder
from sde_diffusion.pretrained.schedule import Schedule, read_schedule
from sde_diffusion.pretrained.t5_tokens import read_t5_tokenizer

# Tokens of T5 that the networks were trained with. Without guidance embedding it is Flux schnell.
SD3_TOKENS, DEV_TOKENS, SCHNELL_TOKENS = 256, 512, 256
FLUX_SIZE = 1024  # pixels along an axis, which no config of Flux tells


def stable_diffusion_3(folder: Path, index: dict[str, Any], **options: Any) -> Pipeline:
    """Stable Diffusion 3 and 3.5; without T5 where the index names none."""
    codec, codec_params, network = _latents(folder, "SD3Transformer2DModel", options)
    text = stable_diffusion_3_text(folder, index, **options)
    pixels = codec.factor * network.module.patch_size
    side = network.module.sample_size * codec.factor
    schedule = _flow(folder, pixels, side, to_one_step=False)
    return _pipeline(codec, codec_params, network, text, schedule, side, 7.0)


def flux(folder: Path, index: dict[str, Any], **options: Any) -> Pipeline:
    """Flux dev, which is told the weight of guidance, and schnell, which has none."""
    codec, codec_params, network = _latents(folder, "FluxTransformer2DModel", options)
    told, text = network.module.guidance_embeds, flux_text(folder, index, **options)
    schedule = _flow(folder, 2 * codec.factor, FLUX_SIZE, to_one_step=True)
    weight = 3.5 if told else 1.0
    return _pipeline(codec, codec_params, network, text, schedule, FLUX_SIZE, weight, told)


def stable_diffusion_3_text(folder: Path, index: dict[str, Any], **options: Any) -> Text:
    """The text encoders of Stable Diffusion 3 and 3.5."""
    network = build(
        KINDS["SD3Transformer2DModel"],
        read_json(folder / "transformer" / "config.json"),
        source=str(folder / "transformer"),
    )
    third: T5 | NoT5 = NoT5(SD3_TOKENS, network.joint_attention_dim)
    if (index.get("text_encoder_3") or [None])[0] is not None:
        third = _t5(folder, "_3", SD3_TOKENS, options)
    return ThreeEncoders(
        _clip(folder, "", CLIP_TEXT_PROJECTED, options),
        _clip(folder, "_2", CLIP_TEXT_PROJECTED, options),
        third,
    )


def flux_text(folder: Path, index: dict[str, Any], **options: Any) -> Text:
    """The text encoders of Flux."""
    config = read_json(folder / "transformer" / "config.json")
    length = DEV_TOKENS if config.get("guidance_embeds", False) else SCHNELL_TOKENS
    return PooledAndStates(
        _clip(folder, "", CLIP_TEXT, options), _t5(folder, "_2", length, options)
    )


def dit(folder: Path, index: dict[str, Any], **options: Any) -> Pipeline:
    """DiT, whose texts are the names of classes, as the index tells them, or their numbers."""
    codec, codec_params, network = _latents(folder, "DiTTransformer2DModel", options)
    text = classes(index.get("id2label") or {}, network.module.num_embeds_ada_norm)
    path = folder / "scheduler" / "scheduler_config.json"
    schedule = read_schedule(read_json(path), source=str(path))
    side = network.module.sample_size * codec.factor
    return _pipeline(codec, codec_params, network, text, schedule, side, 4.0)


def _latents(folder: Path, kind: str, options: dict[str, Any]) -> tuple[Codec, Any, Part]:
    """The codec, its parameters, and the network of its latents."""
    codec, codec_params = read_codec(folder / "vae", **options)
    return codec, codec_params, read_part(folder / "transformer", KINDS[kind], **options)


def _clip(folder: Path, suffix: str, kind: Kind, options: dict[str, Any]) -> Encoder:
    tokenizer = read_clip_tokenizer(folder / f"tokenizer{suffix}")
    module, params, _ = read_part(folder / f"text_encoder{suffix}", kind, **options)
    return Encoder(tokenizer, module, params)


def _t5(folder: Path, suffix: str, length: int, options: dict[str, Any]) -> T5:
    tokenizer = read_t5_tokenizer(folder / f"tokenizer{suffix}", length)
    kind = KINDS["T5EncoderModel"]
    module, params, _ = read_part(folder / f"text_encoder{suffix}", kind, **options)
    return T5(tokenizer, module, params)


def _flow(folder: Path, pixels: int, side: int, *, to_one_step: bool) -> FlowSchedule:
    path = folder / "scheduler" / "scheduler_config.json"
    return read_flow_schedule(
        read_json(path),
        pixels=pixels,
        size=(side, side),
        to_one_step=to_one_step,
        source=str(path),
    )


def _pipeline(
    codec: Codec,
    codec_params: Any,
    network: Part,
    text: Text,
    schedule: FlowSchedule | Schedule,
    side: int,
    guidance: float,
    told: bool = False,
) -> Pipeline:
    model = from_network(
        schedule.sde,
        network.module.apply,
        {"params": network.params},
        schedule.parameterization,
    )
    return Pipeline(
        model,
        codec,
        codec_params,
        text,
        schedule.grid,
        schedule.solver,
        (side, side),
        codec.module.latent_channels,
        guidance,
        told,
        clip=schedule.clip,
    )
