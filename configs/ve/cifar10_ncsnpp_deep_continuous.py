r"""NCSN++ cont. (deep, VE) on CIFAR-10, 107.6 M parameters.

Song et al. 2021, table 3: FID 2.20, IS 9.89.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/ve/cifar10_ncsnpp_deep_continuous.py \
    --workdir runs/ve_cifar10_ncsnpp_deep_continuous
"""

from pathlib import Path

from sde_diffusion.config import load


def get_config():
    config = load(Path(__file__).parent / "cifar10_ncsnpp_continuous.py")
    config.network.num_res_blocks = 8
    config.training.steps = 950_001
    return config
