"""Small models that fill in a part of a picture, and what diffusers draws with them.

    venv/bin/python experiments/pretrained/reference_inpaint.py

writes tests/reference/pretrained/inpaint and inpaint_sdxl: model_index.json, a U-Net of nine
channels with random weights, and outputs.npz. Their other parts are those of sd15 and sdxl. The
latents of the picture are the mean of the encoder's Gaussian, where diffusers by itself draws from
it. The environment is that of reference.py.
"""

import json
import shutil

import diffusers
import numpy as np
import torch
from reference import GUIDANCE, NEGATIVE, PROMPTS, STEPS, TARGET, last, normal, randomize

FAMILIES = {
    "inpaint": (
        "sd15",
        diffusers.StableDiffusionPipeline,
        diffusers.StableDiffusionInpaintPipeline,
        {"requires_safety_checker": False},
    ),
    "inpaint_sdxl": (
        "sdxl",
        diffusers.StableDiffusionXLPipeline,
        diffusers.StableDiffusionXLInpaintPipeline,
        {"add_watermarker": False},
    ),
}
"""The folder of the other parts, its class, the class that fills in, and what that needs."""


def write(name: str) -> None:
    parts, drawing, filling, options = FAMILIES[name]
    folder = TARGET / name
    shutil.rmtree(folder, ignore_errors=True)
    like = drawing.from_pretrained(TARGET / parts).to(torch.float32)
    config = {key: value for key, value in like.unet.config.items() if key != "_name_or_path"}
    network = diffusers.UNet2DConditionModel.from_config(config, in_channels=9).eval()
    randomize(network, 0)
    pipe = filling(**like.components | {"unet": network}, **options)
    # With "linspace", which is SDXL's here, DDIMScheduler steps to other times than it evaluates.
    pipe.scheduler = diffusers.DDIMScheduler.from_config(
        pipe.scheduler.config,
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="leading",
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
    index = json.loads((TARGET / parts / "model_index.json").read_text())
    index["_class_name"] = filling.__name__
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    np.savez_compressed(
        folder / "outputs.npz",
        noise=last(noise),
        pixels=last(picture)[0],
        mask=mask[0, 0].numpy(),
        picture=made.astype(np.float32),
    )
    print(name, made.std(), made.shape)


def main() -> None:
    for name in FAMILIES:
        write(name)


if __name__ == "__main__":
    main()
