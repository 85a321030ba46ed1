r"""DDPM++ cont. (deep, VP) on CIFAR-10, 106.6 M parameters.

Song et al. 2021, table 3: FID 2.41, IS 9.68; table 2: 3.13 bits/dim.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/vp/cifar10_ddpmpp_deep_continuous.py \
    --workdir runs/vp_cifar10_ddpmpp_deep_continuous
"""

from pathlib import Path

from sde_diffusion.config import load


def get_config():
    config = load(Path(__file__).parent / "cifar10_ddpmpp_continuous.py")
    config.network.num_res_blocks = 8
    config.training.steps = 950_001
    return config
