r"""SiT-L/2 on latents of ImageNet at 256x256, 458 M parameters.

Ma et al. 2024.
Needs accelerators and the latents of imagenet256_b2.py.

sde-diffusion train --config configs/dit/sit_imagenet256_l2.py --config.preset=tpu \
    --workdir gs://bucket/dit_sit_imagenet256_l2
"""

from pathlib import Path

from sde_diffusion.config import load


def get_config():
    config = load(Path(__file__).parent / "sit_imagenet256_b2.py")
    config.network.size = "L"
    return config
