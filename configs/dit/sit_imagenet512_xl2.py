r"""SiT-XL/2 on latents of ImageNet at 512x512, 675 M parameters.

Ma et al. 2024: FID 2.62 with classifier-free guidance.
Needs accelerators and latents of 64x64x4, made as those of imagenet256_b2.py.

sde-diffusion train --config configs/dit/sit_imagenet512_xl2.py --config.preset=tpu \
    --workdir gs://bucket/dit_sit_imagenet512_xl2
"""

from pathlib import Path

from sde_diffusion.config import load


def get_config():
    config = load(Path(__file__).parent / "sit_imagenet256_xl2.py")
    config.data.source.path = "data/imagenet512_latents"
    return config
