r"""SiT-B/2: flow matching with the network of DiT-B/2, on latents of ImageNet at 256x256.

Ma et al. 2024, "SiT: Exploring flow and diffusion-based generative models with scalable
interpolant transformers", arXiv:2401.08740. The steps are the 1,400 epochs of their train.py.
Needs accelerators and the latents of imagenet256_b2.py.

sde-diffusion train --config configs/dit/sit_imagenet256_b2.py --config.preset=tpu \
    --workdir gs://bucket/dit_sit_imagenet256_b2
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "imagenet256_b2.py")
    config.sde = choice("sde", "flow")
    config.parameterization = choice("parameterization", "flow")
    config.loss.weighting = choice("loss.weighting", "constant", on="velocity")
    config.loss.times = choice("loss.times", "uniform")
    config.sampling.solver = choice("sampling.solver", "heun")
    config.sampling.grid = choice("sampling.grid", "uniform")
    config.sampling.steps = 125
    return config
