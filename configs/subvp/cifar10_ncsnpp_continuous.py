r"""NCSN++ cont. (sub-VP) on CIFAR-10, 62.7 M parameters.

Published with the code of Song et al. 2021.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/subvp/cifar10_ncsnpp_continuous.py \
    --workdir runs/subvp_cifar10_ncsnpp_continuous
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "../vp/cifar10_ncsnpp_continuous.py")
    config.sde = choice("sde", "subvp", t_min=1e-5)
    return config
