"""The configs of the published Stable Diffusion 1.x and SDXL, which their single files lack."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "trained_betas": None,
}

AUTOENCODER = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "act_fn": "silu",
}

CLIP_LARGE = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-05,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}

OPEN_CLIP_BIG_G = {
    **CLIP_LARGE,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}

UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-05,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}

FILES: dict[str, dict[str, dict[str, Any]]] = {
    "StableDiffusionPipeline": {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "PNDMScheduler",
            **SCHEDULE,
            "skip_prk_steps": True,
            "set_alpha_to_one": False,
        },
        "unet/config.json": {
            **UNET,
            "sample_size": 64,
            "block_out_channels": [320, 640, 1280, 1280],
            "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
            "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        "vae/config.json": {**AUTOENCODER, "sample_size": 512, "scaling_factor": 0.18215},
        "text_encoder/config.json": CLIP_LARGE,
    },
    "StableDiffusionXLPipeline": {
        "model_index.json": {
            "_class_name": "StableDiffusionXLPipeline",
            "force_zeros_for_empty_prompt": True,
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "scheduler/scheduler_config.json": {"_class_name": "EulerDiscreteScheduler", **SCHEDULE},
        "unet/config.json": {
            **UNET,
            "sample_size": 128,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
            "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae/config.json": {
            **AUTOENCODER,
            "sample_size": 1024,
            "scaling_factor": 0.13025,
            "force_upcast": True,
        },
        "text_encoder/config.json": CLIP_LARGE,
        "text_encoder_2/config.json": OPEN_CLIP_BIG_G,
    },
}
"""The files of a folder of diffusers, but for weights and tokenizers, by the pipeline's class."""

SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "model_max_length": 77,
    "tokenizer_class": "CLIPTokenizer",
}
PADS = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}


def write_configs(
    folder: str | os.PathLike[str], family: str, tokenizer: str | os.PathLike[str]
) -> None:
    """Write the configs of a published pipeline, with CLIP's tokenizer from a folder of its files.

    Raises FileNotFoundError where the tokenizer's folder lacks vocab.json or merges.txt.
    """
    folder, tokenizer = Path(folder), Path(tokenizer)
    for name, content in FILES[family].items():
        _write(folder / name, content)
    for name, pad in PADS.items():
        if name in FILES[family]["model_index.json"]:
            _write(folder / name / "tokenizer_config.json", {**SPECIAL, "pad_token": pad})
            for file in ("vocab.json", "merges.txt"):
                if not (tokenizer / file).is_file():
                    raise FileNotFoundError(f"{tokenizer}: there is no {file}")
                shutil.copyfile(tokenizer / file, folder / name / file)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
