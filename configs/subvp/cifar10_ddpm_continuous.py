r"""DDPM cont. (sub-VP) on CIFAR-10, 35.2 M parameters.

Song et al. 2021, table 2: 3.05 bits/dim, FID 3.56 (ODE).
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/subvp/cifar10_ddpm_continuous.py \
    --workdir runs/subvp_cifar10_ddpm_continuous
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "../vp/ddpm/cifar10_continuous.py")
    config.sde = choice("sde", "subvp", t_min=1e-5)
    return config
