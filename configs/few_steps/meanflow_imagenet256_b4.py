r"""MeanFlow on latents of ImageNet at 256x256, a transformer B/4, from nothing.

Geng et al. 2025 (Mean Flows for one-step generative modeling), table 1f: FID 61.06 with one
evaluation after 80 epochs, without guidance. The times, their share apart and the power are the
paper's for ImageNet. Guidance inside the training (table 2) is not here.
Needs accelerators and the latents of configs/dit/imagenet256_b2.py.

sde-diffusion train --config configs/few_steps/meanflow_imagenet256_b4.py --config.preset=tpu \
    --workdir gs://bucket/meanflow_imagenet256_b4
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parents[1] / "dit" / "sit_imagenet256_b2.py")
    config.network.patch_size = 4
    config.flow_map = choice("flow_map", "meanflow", improved=False)
    config.loss.times = choice("loss.times", "logit_normal", mean=-0.4, std=1.0)
    # 80 epochs of 1,281,167 images in batches of 256.
    config.training.steps = 400_000
    config.sampling.solver = choice("sampling.solver", "flow_map")
    config.sampling.steps = 1
    return config
