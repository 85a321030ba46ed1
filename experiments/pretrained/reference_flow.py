"""What diffusers' pipelines of SD3, Flux and DiT draw with the small parts of the other scripts.

    venv/bin/python experiments/pretrained/reference_flow.py --tokenizers FOLDER

after reference.py and reference_transformers.py, whose folders are the pipelines' parts. FOLDER is
that of reference.py. It writes tests/reference/pretrained/pipelines/NAME.json, which says the parts
of a folder, and NAME.npz with its noise and pictures; the first pieces of T5's tokenizer; and what
transformers makes of strings with the whole of it.
"""

import argparse
import json
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from reference import NEGATIVE, PROMPTS, STRINGS, TARGET, last, normal
from reference_transformers import T5_VOCABULARY

STEPS, GUIDANCE, SIZE = 4, 4.0, {"height": 16, "width": 16}
FOLDERS = TARGET / "pipelines"
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
SD3_PARTS = {
    "vae": "sd15/vae",
    "text_encoder": "sdxl/text_encoder_2",
    "text_encoder_2": "sdxl/text_encoder_2",
    "text_encoder_3": "t5",
    "tokenizer": "sdxl/tokenizer",
    "tokenizer_2": "sdxl/tokenizer_2",
    "tokenizer_3": "t5_tokenizer",
}
FLUX_PARTS = {
    "vae": "flux_vae",
    "text_encoder": "sd15/text_encoder",
    "text_encoder_2": "t5",
    "tokenizer": "sd15/tokenizer",
    "tokenizer_2": "t5_tokenizer",
}
DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0}
DDIM = {"_class_name": "DDIMScheduler", "clip_sample": False}
LABELS = {"207": "golden retriever", "279": "arctic fox, white fox", "3": "tiger shark"}
PIPELINES = {
    "sd3": {
        "index": {"_class_name": "StableDiffusion3Pipeline", "text_encoder_3": ["", "T5"]},
        "scheduler": EULER | {"shift": 3.0},
        "parts": SD3_PARTS | {"transformer": "mmdit_sd3"},
        "changes": {"vae": {"shift_factor": 0.05}},
    },
    "flux_dev": {
        "index": {"_class_name": "FluxPipeline"},
        "scheduler": EULER | DYNAMIC,
        "parts": FLUX_PARTS | {"transformer": "flux_dev"},
        "changes": {},
    },
    "flux_schnell": {
        "index": {"_class_name": "FluxPipeline"},
        "scheduler": EULER | {"shift": 1.0},
        "parts": FLUX_PARTS | {"transformer": "flux_schnell"},
        "changes": {},
    },
    "dit": {
        "index": {"_class_name": "DiTPipeline", "id2label": LABELS},
        "scheduler": DDIM,
        "parts": {"vae": "sd15/vae", "transformer": "dit"},
        "changes": {},
    },
}
CLASSES = {
    "vae": diffusers.AutoencoderKL,
    "text_encoder": transformers.CLIPTextModel,
    "t5": transformers.T5EncoderModel,
    "tokenizer": transformers.CLIPTokenizer,
    "mmdit_sd3": diffusers.SD3Transformer2DModel,
    "flux_dev": diffusers.FluxTransformer2DModel,
    "flux_schnell": diffusers.FluxTransformer2DModel,
    "dit": diffusers.DiTTransformer2DModel,
}


def t5_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerFast:
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    file = str(folder / "tokenizer.json")
    return transformers.PreTrainedTokenizerFast(tokenizer_file=file, **special)


def write_t5_tokenizer(source: Path) -> None:
    """The most frequent pieces and the letters of T5's tokenizer, without its normalization."""
    told = json.loads((source / "tokenizer.json").read_text())
    pieces = told["model"]["vocab"]
    letters = [piece for piece in pieces if piece[0] in "abcdefghijklmnopqrstuvwxyz,. "]
    single = [piece for piece in letters if len(piece[0]) == 1]
    kept = [piece for piece in pieces[: T5_VOCABULARY - len(single)] if piece not in single]
    told["model"]["vocab"] = kept + single
    told["added_tokens"] = told["added_tokens"][:3]
    told["normalizer"] = {"type": "NFKC"}
    folder = TARGET / "t5_tokenizer"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(told, ensure_ascii=False))


def write_t5_ids(source: Path) -> None:
    made = transformers.T5Tokenizer.from_pretrained(source)
    fields = {"padding": "max_length", "truncation": True, "max_length": 40}
    np.savez_compressed(TARGET / "t5_ids.npz", ids=made(STRINGS, **fields).input_ids)


def part(name: str, source: str, changes: dict) -> object:
    if source == "t5_tokenizer":
        return t5_tokenizer(TARGET / source)
    if name.startswith("tokenizer"):
        return CLASSES["tokenizer"].from_pretrained(TARGET / source)
    kind = CLASSES.get(source) or CLASSES[name.removesuffix("_2")]
    if source == "sdxl/text_encoder_2":
        kind = transformers.CLIPTextModelWithProjection
    return kind.from_pretrained(TARGET / source, torch_dtype=torch.float32, **changes).eval()


def draw(name: str, told: dict) -> dict[str, np.ndarray]:
    made = {
        key: part(key, source, told["changes"].get(key, {}))
        for key, source in told["parts"].items()
    }
    config = dict(told["scheduler"])
    scheduler = getattr(diffusers, config.pop("_class_name"))(**config)
    shared = {"num_inference_steps": STEPS, "output_type": "np"}
    kind = getattr(diffusers, told["index"]["_class_name"])
    if name == "dit":
        pipe = kind(scheduler=scheduler, id2label=LABELS, **made)
        generator = torch.Generator().manual_seed(6)
        fields = {"class_labels": [207, 279], "generator": generator, "guidance_scale": GUIDANCE}
        noise = normal(6, 2, 4, 8, 8)
    elif name == "sd3":
        pipe = kind(scheduler=scheduler, **made)
        noise = normal(6, 2, 4, 8, 8)
        fields = {"prompt": PROMPTS, "negative_prompt": NEGATIVE, "latents": noise.clone(), **SIZE}
        fields["guidance_scale"] = GUIDANCE
    else:
        pipe = kind(scheduler=scheduler, **made)
        noise = normal(6, 2, 16, 8, 8)
        fields = {"prompt": PROMPTS, "latents": kind._pack_latents(noise, 2, 16, 8, 8), **SIZE}
        fields["guidance_scale"] = 3.0
        fields["max_sequence_length"] = 512 if name == "flux_dev" else 256
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe(**fields, **shared).images
    times = pipe.scheduler.timesteps.numpy()
    return {"noise": last(noise), "picture": pictures.astype(np.float32), "times": times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizers", type=Path, required=True)
    args = parser.parse_args()
    source = args.tokenizers / "stable_diffusion_3" / "tokenizer_3"
    write_t5_tokenizer(source)
    write_t5_ids(source)
    FOLDERS.mkdir(exist_ok=True)
    for name, told in PIPELINES.items():
        (FOLDERS / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")
        np.savez_compressed(FOLDERS / f"{name}.npz", **draw(name, told))


if __name__ == "__main__":
    main()
