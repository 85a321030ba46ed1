r"""DDPM without the time step as an input, on CIFAR-10, 32.3 M parameters.

Published with the code of Song et al. 2021, after Song & Ermon 2020.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/vp/ddpm/cifar10_unconditional.py \
    --workdir runs/vp_ddpm_cifar10_unconditional
"""

from pathlib import Path

from sde_diffusion.config import load


def get_config():
    config = load(Path(__file__).parent / "cifar10.py")
    config.network.conditional = False
    return config
