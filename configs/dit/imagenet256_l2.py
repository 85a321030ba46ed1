r"""DiT-L/2 on latents of ImageNet at 256x256, 458 M parameters.

Peebles & Xie 2023.
Needs accelerators and the latents of imagenet256_b2.py.

sde-diffusion train --config configs/dit/imagenet256_l2.py --config.preset=tpu \
    --workdir gs://bucket/dit_imagenet256_l2
"""

from pathlib import Path

from sde_diffusion.config import load


def get_config():
    config = load(Path(__file__).parent / "imagenet256_b2.py")
    config.network.size = "L"
    return config
