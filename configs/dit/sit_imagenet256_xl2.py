r"""SiT-XL/2 on latents of ImageNet at 256x256, 675 M parameters.

Ma et al. 2024: FID 2.06 with classifier-free guidance.
Needs accelerators and the latents of imagenet256_b2.py.

sde-diffusion train --config configs/dit/sit_imagenet256_xl2.py --config.preset=tpu \
    --workdir gs://bucket/dit_sit_imagenet256_xl2
"""

from pathlib import Path

from sde_diffusion.config import load


def get_config():
    config = load(Path(__file__).parent / "sit_imagenet256_b2.py")
    config.network.size = "XL"
    return config
