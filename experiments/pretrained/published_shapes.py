"""The name and shape of every tensor of the published models, as diffusers and transformers build
them from the published configs, on PyTorch's meta device, without any weights.

    venv/bin/python experiments/pretrained/published_shapes.py

writes tests/reference/pretrained/published.json.gz: {model: {part: {class, config, tensors}}}. The
environment is that of reference.py.
"""

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "tests" / "reference" / "pretrained" / "published.json.gz"


def of_single_files() -> dict[str, dict[str, dict[str, Any]]]:
    """The configs of SD 1.5 and SDXL base, by pipeline and file, without importing the package."""
    file = ROOT / "sde_diffusion" / "pretrained" / "published.py"
    spec = importlib.util.spec_from_file_location("published", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FILES


FILES = of_single_files()
SD15, SDXL = FILES["StableDiffusionPipeline"], FILES["StableDiffusionXLPipeline"]
DDPM = {
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "attention_head_dim": None,
    "center_input_sample": False,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "time_embedding_type": "positional",
}
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "stable-diffusion-v1-5": {
        part: SD15[f"{part}/config.json"] for part in ("vae", "unet", "text_encoder")
    },
    "stable-diffusion-2-1": {
        "unet": SD15["unet/config.json"]
        | {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        "text_encoder": SD15["text_encoder/config.json"]
        | {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
        },
    },
    "stable-diffusion-xl-base-1.0": {
        part: SDXL[f"{part}/config.json"] for part in ("unet", "text_encoder_2")
    },
    "stable-diffusion-3-medium": {
        "vae": SD15["vae/config.json"]
        | {
            "latent_channels": 16,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
    },
    "ddpm-cifar10-32": {
        "unet": DDPM
        | {
            "sample_size": 32,
            "block_out_channels": [128, 256, 256, 256],
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D", *["DownBlock2D"] * 2],
            "up_block_types": [*["UpBlock2D"] * 2, "AttnUpBlock2D", "UpBlock2D"],
        },
    },
    "ddpm-celebahq-256": {
        "unet": DDPM
        | {
            "sample_size": 256,
            "block_out_channels": [128, 128, 256, 256, 512, 512],
            "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
        },
    },
    "ncsnpp-celebahq-256": {
        "unet": DDPM
        | {
            "sample_size": 256,
            "block_out_channels": [128, 128, *[256] * 5],
            "down_block_types": [
                *["SkipDownBlock2D"] * 4,
                "AttnSkipDownBlock2D",
                *["SkipDownBlock2D"] * 2,
            ],
            "up_block_types": [
                *["SkipUpBlock2D"] * 2,
                "AttnSkipUpBlock2D",
                *["SkipUpBlock2D"] * 4,
            ],
            "downsample_padding": 1,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "mid_block_scale_factor": 1.41421356237,
            "norm_num_groups": None,
            "time_embedding_type": "fourier",
        },
    },
}


def class_of(config: dict[str, Any]) -> str:
    return config.get("_class_name") or config["architectures"][0]


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
            part: {
                "class": class_of(config),
                "config": config,
                "tensors": tensors(class_of(config), config),
            }
            for part, config in parts.items()
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
