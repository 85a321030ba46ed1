"""Small folders of DDPM, NCSN++ and ADM with random weights, and what diffusers makes of them.

    venv/bin/python experiments/pretrained/reference_unet2d.py

writes tests/reference/pretrained/NAME for each of NETWORKS, or for the names after the command: the
network as diffusers writes it, for ddpm and ncsnpp the whole pipeline, and outputs.npz. The
environment is that of reference.py. Every draw of noise in a pipeline is replaced by the same
array, so that stochastic samplers can be compared too.
"""

import shutil
import sys
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers.schedulers import scheduling_ddpm, scheduling_sde_ve
from reference import TARGET, last, normal, randomize

NETWORKS = {
    # google/ddpm-cifar10-32 and ddpm-celebahq-256: one head, padding on one side only.
    "ddpm": {
        "sample_size": 8,
        "block_out_channels": (4, 8, 8),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "norm_num_groups": 2,
    },
    # google/ncsnpp-celebahq-256. Attention takes 32 groups, so its level has 32 channels.
    "ncsnpp": {
        "sample_size": 8,
        "block_out_channels": (32, 16, 8),
        "layers_per_block": 1,
        "down_block_types": ("AttnSkipDownBlock2D", "SkipDownBlock2D", "SkipDownBlock2D"),
        "up_block_types": ("SkipUpBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"),
        "attention_head_dim": None,
        "time_embedding_type": "fourier",
        "freq_shift": 0,
        "mid_block_scale_factor": 1.41421356237,
        "norm_eps": 1e-6,
        "norm_num_groups": None,
    },
    # What diffusers' own training scripts write: several heads, padding on both sides.
    "unet2d": {
        "sample_size": 8,
        "block_out_channels": (4, 8),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "attn_norm_num_groups": 2,
        "center_input_sample": True,
        "norm_num_groups": 4,
    },
    # openai/diffusers-cd_imagenet64_l2, as ADM: classes, and resampling inside residual blocks.
    "adm": {
        "sample_size": 8,
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "attention_head_dim": 4,
        "attn_norm_num_groups": 2,
        "downsample_type": "resnet",
        "norm_num_groups": 2,
        "num_class_embeds": 3,
        "resnet_time_scale_shift": "scale_shift",
        "upsample_type": "resnet",
    },
    # The same, with attention at the level that is resampled, and a vector in place of a class.
    "adm_vector": {
        "sample_size": 8,
        "block_out_channels": (8, 4),
        "layers_per_block": 1,
        "down_block_types": ("AttnDownBlock2D", "ResnetDownsampleBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D"),
        "attention_head_dim": 4,
        "class_embed_type": "identity",
        "downsample_type": "resnet",
        "norm_num_groups": 2,
        "resnet_time_scale_shift": "scale_shift",
        "upsample_type": "resnet",
    },
}
NETWORKS["ncsnpp_shift"] = NETWORKS["ncsnpp"] | {"resnet_time_scale_shift": "scale_shift"}
STEPS = 6
SCHEDULERS = {
    "ddim": (diffusers.DDIMPipeline, diffusers.DDIMScheduler(clip_sample=False)),
    "small": (diffusers.DDPMPipeline, diffusers.DDPMScheduler()),
    "large": (diffusers.DDPMPipeline, diffusers.DDPMScheduler(variance_type="fixed_large")),
    "no_clip": (diffusers.DDPMPipeline, diffusers.DDPMScheduler(clip_sample=False)),
}
VE = {"sigma_max": 50.0, "snr": 0.2}


def network(name: str) -> diffusers.UNet2DModel:
    model = diffusers.UNet2DModel(**NETWORKS[name]).eval()
    randomize(model, 0)
    return model


def network_outputs(model: diffusers.UNet2DModel) -> dict[str, np.ndarray]:
    x = normal(1, 2, 3, 8, 8)
    levels = model.config.time_embedding_type == "fourier"
    t = torch.tensor([17.25, 0.03]) if levels else torch.tensor([981, 7])
    told = {"unet.x": last(x), "unet.t": t.numpy()}
    given = None
    if model.config.num_class_embeds is not None:
        given = torch.tensor([2, 0])
    elif model.config.class_embed_type == "identity":
        given = normal(4, 2, 4 * model.config.block_out_channels[0])
    if given is not None:
        told["unet.cond"] = given.numpy()
    return told | {"unet.out": last(model(x, t, given).sample)}


def ddpm_samples(model: diffusers.UNet2DModel) -> dict[str, np.ndarray]:
    """The last samples of the pipelines, before they are clamped to pixels."""
    start, noise = normal(2, 1, 3, 8, 8), normal(3, 1, 3, 8, 8)
    told = {"start": last(start), "noise": last(noise)}
    for name, (kind, scheduler) in SCHEDULERS.items():
        pipe = kind(unet=model, scheduler=scheduler)
        pipe.set_progress_bar_config(disable=True)
        drawn, step, made = mock.Mock(return_value=noise), pipe.scheduler.step, []

        def recorded(*args: Any, step: Any = step, made: list = made, **kwargs: Any) -> Any:
            made.append(step(*args, **kwargs))
            return made[-1]

        # The pipeline draws the start from its own module; the scheduler draws the steps.
        with (
            mock.patch.object(scheduling_ddpm, "randn_tensor", drawn),
            mock.patch.object(pipe.scheduler, "step", recorded),
            mock.patch(f"{kind.__module__}.randn_tensor", mock.Mock(return_value=start.clone())),
        ):
            pipe(num_inference_steps=STEPS, output_type="np")
        told[f"sample.{name}"] = last(made[-1].prev_sample)
    return told


def ve_sample(model: diffusers.UNet2DModel) -> dict[str, np.ndarray]:
    """The loop of ScoreSdeVePipeline, without the correction at the last time."""
    scheduler = diffusers.ScoreSdeVeScheduler(**VE)
    start, noise = normal(2, 1, 3, 8, 8), normal(3, 1, 3, 8, 8)
    x = start * scheduler.init_noise_sigma
    scheduler.set_timesteps(STEPS)
    scheduler.set_sigmas(STEPS)
    with mock.patch.object(scheduling_sde_ve, "randn_tensor", mock.Mock(return_value=noise)):
        for i, t in enumerate(scheduler.timesteps):
            sigma = scheduler.sigmas[i] * torch.ones(1)
            if i < STEPS - 1:
                x = scheduler.step_correct(model(x, sigma).sample, x).prev_sample
            out = scheduler.step_pred(model(x, sigma).sample, t, x)
            x = out.prev_sample
    return {"start": last(start), "noise": last(noise), "sample.ve": last(out.prev_sample_mean)}


def main() -> None:
    for name in sys.argv[1:] or NETWORKS:
        folder = TARGET / name
        shutil.rmtree(folder, ignore_errors=True)
        model = network(name)
        with torch.no_grad():
            told = network_outputs(model)
            if name == "ddpm":
                told |= ddpm_samples(model)
            if name == "ncsnpp":
                told |= ve_sample(model)
        model = model.half()
        if name == "ddpm":
            scheduler = diffusers.DDPMScheduler()
            diffusers.DDPMPipeline(unet=model, scheduler=scheduler).save_pretrained(folder)
        elif name == "ncsnpp":
            scheduler = diffusers.ScoreSdeVeScheduler(**VE)
            diffusers.ScoreSdeVePipeline(unet=model, scheduler=scheduler).save_pretrained(folder)
        else:
            model.save_pretrained(folder / "unet")
        np.savez_compressed(folder / "outputs.npz", **told)
        print(name, {key: np.abs(value).max() for key, value in told.items()})


if __name__ == "__main__":
    main()
