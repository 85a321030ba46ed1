r"""DDPM++ cont. (deep, sub-VP) on CIFAR-10, 106.6 M parameters.

Song et al. 2021, table 3: FID 2.41, IS 9.57; table 2: 2.99 bits/dim.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/subvp/cifar10_ddpmpp_deep_continuous.py \
    --workdir runs/subvp_cifar10_ddpmpp_deep_continuous
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "../vp/cifar10_ddpmpp_deep_continuous.py")
    config.sde = choice("sde", "subvp", t_min=1e-5)
    return config
