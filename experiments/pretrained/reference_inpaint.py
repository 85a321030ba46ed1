"""A small Stable Diffusion that fills in a part of a picture, and what diffusers draws with it.

    venv/bin/python experiments/pretrained/reference_inpaint.py

writes tests/reference/pretrained/inpaint: model_index.json, a U-Net of nine channels with random
weights, and outputs.npz. Its other parts are those of sd15. The latents of the picture are the mean
of the encoder's Gaussian, where diffusers by itself draws from it. The environment is that of
reference.py.
"""

import json
import shutil

import diffusers
import numpy as np
import torch
from reference import (
    GUIDANCE,
    LEVELS,
    NEGATIVE,
    PROMPTS,
    STEPS,
    TARGET,
    WIDTH,
    last,
    normal,
    randomize,
    unet,
)

CLASS = "StableDiffusionInpaintPipeline"


def main() -> None:
    folder = TARGET / "inpaint"
    shutil.rmtree(folder, ignore_errors=True)
    network = unet(**LEVELS, attention_head_dim=2, cross_attention_dim=WIDTH, in_channels=9).eval()
    randomize(network, 0)
    like = diffusers.StableDiffusionPipeline.from_pretrained(TARGET / "sd15").to(torch.float32)
    parts = like.components | {"unet": network}
    pipe = diffusers.StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(
        pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False
    )
    pipe.set_progress_bar_config(disable=True)
    noise = normal(6, 2, 4, 8, 8)
    picture = 0.5 + 0.5 * normal(7, 1, 3, 16, 16).clamp(-1, 1)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:11, 7:] = 1.0
    with torch.no_grad():
        seen = (2.0 * picture - 1.0) * (mask < 0.5)
        latents = pipe.vae.encode(seen).latent_dist.mean * pipe.vae.config.scaling_factor
        made = pipe(
            PROMPTS,
            negative_prompt=NEGATIVE,
            image=picture,
            mask_image=mask,
            masked_image_latents=latents,
            latents=noise.clone(),
            height=16,
            width=16,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            strength=1.0,
            output_type="np",
        ).images
    network.half().save_pretrained(folder / "unet")
    index = json.loads((TARGET / "sd15" / "model_index.json").read_text()) | {"_class_name": CLASS}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    np.savez_compressed(
        folder / "outputs.npz",
        noise=last(noise),
        pixels=last(picture)[0],
        mask=mask[0, 0].numpy(),
        picture=made.astype(np.float32),
    )
    print(made.std(), made.shape)


if __name__ == "__main__":
    main()
