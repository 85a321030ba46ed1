r"""NCSN++ cont. (deep, VP) on CIFAR-10, 107.5 M parameters.

Published with the code of Song et al. 2021.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/vp/cifar10_ncsnpp_deep_continuous.py \
    --workdir runs/vp_cifar10_ncsnpp_deep_continuous
"""

from pathlib import Path

from sde_diffusion.config import load


def get_config():
    config = load(Path(__file__).parent / "cifar10_ncsnpp_continuous.py")
    config.network.num_res_blocks = 8
    config.training.steps = 950_001
    return config
