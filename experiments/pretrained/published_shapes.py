"""The name and shape of every tensor of the published models, as diffusers and transformers build
them from the published configs, on PyTorch's meta device, without any weights.

    venv/bin/python experiments/pretrained/published_shapes.py

writes tests/reference/pretrained/published.json.gz: {model: {part: {class, config, tensors}}}. The
environment is that of reference.py.
"""

import gzip
import json
from pathlib import Path

import diffusers
import torch
import transformers

TARGET = Path(__file__).parents[2] / "tests" / "reference" / "pretrained" / "published.json.gz"

VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
UNET = {
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "layers_per_block": 2,
}
LARGE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
PUBLISHED = {
    "stable-diffusion-v1-5": {
        "vae": ("AutoencoderKL", VAE | {"scaling_factor": 0.18215}),
        "unet": ("UNet2DConditionModel", UNET | {"cross_attention_dim": 768}),
        "text_encoder": ("CLIPTextModel", LARGE),
    },
    "stable-diffusion-2-1": {
        "unet": (
            "UNet2DConditionModel",
            UNET
            | {
                "sample_size": 96,
                "cross_attention_dim": 1024,
                "attention_head_dim": [5, 10, 20, 20],
                "use_linear_projection": True,
            },
        ),
        "text_encoder": (
            "CLIPTextModel",
            {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 23,
                "num_attention_heads": 16,
                "hidden_act": "gelu",
            },
        ),
    },
    "stable-diffusion-xl-base-1.0": {
        "unet": (
            "UNet2DConditionModel",
            {
                "sample_size": 128,
                "block_out_channels": [320, 640, 1280],
                "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
                "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
                "layers_per_block": 2,
                "cross_attention_dim": 2048,
                "attention_head_dim": [5, 10, 20],
                "transformer_layers_per_block": [1, 2, 10],
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            },
        ),
        "text_encoder_2": (
            "CLIPTextModelWithProjection",
            {
                "hidden_size": 1280,
                "intermediate_size": 5120,
                "num_hidden_layers": 32,
                "num_attention_heads": 20,
                "hidden_act": "gelu",
                "projection_dim": 1280,
            },
        ),
    },
    "stable-diffusion-3-medium": {
        "vae": (
            "AutoencoderKL",
            VAE
            | {
                "latent_channels": 16,
                "scaling_factor": 1.5305,
                "shift_factor": 0.0609,
                "use_quant_conv": False,
                "use_post_quant_conv": False,
            },
        ),
    },
}


def tensors(name: str, config: dict) -> dict[str, list[int]]:
    with torch.device("meta"):
        if hasattr(diffusers, name):
            made = getattr(diffusers, name).from_config(config)
        else:
            made = getattr(transformers, name)(transformers.CLIPTextConfig(**config))
    kept = dict(made.named_parameters())
    return {key: list(value.shape) for key, value in kept.items()}


def main() -> None:
    told = {
        model: {
            part: {"class": name, "config": config, "tensors": tensors(name, config)}
            for part, (name, config) in parts.items()
        }
        for model, parts in PUBLISHED.items()
    }
    text = json.dumps(told, separators=(",", ":")).encode()
    TARGET.write_bytes(gzip.compress(text, mtime=0))
    for model, parts in told.items():
        for part, each in parts.items():
            print(model, part, len(each["tensors"]))


if __name__ == "__main__":
    main()
