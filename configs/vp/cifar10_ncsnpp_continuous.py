r"""NCSN++ cont. (VP) on CIFAR-10, 62.7 M parameters.

Published with the code of Song et al. 2021.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/vp/cifar10_ncsnpp_continuous.py \
    --workdir runs/vp_cifar10_ncsnpp_continuous
"""

from pathlib import Path

from sde_diffusion.config import load


def get_config():
    config = load(Path(__file__).parent / "cifar10_ddpmpp_continuous.py")
    config.network.update(fir=True, progressive_input="residual")
    return config
