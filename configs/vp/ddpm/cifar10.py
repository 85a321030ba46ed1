"""DDPM on CIFAR-10, 35.2 M parameters.

Ho et al. 2020, table 1: FID 3.17, IS 9.46; Song et al. 2021, table 2: 3.28 bits/dim. There: TPU
v3-8.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/vp/ddpm/cifar10.py --workdir runs/vp_ddpm_cifar10
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "cifar10_continuous.py")
    config.loss.name = "ddpm"
    config.sampling.solver = choice("sampling.solver", "ancestral")
    return config
