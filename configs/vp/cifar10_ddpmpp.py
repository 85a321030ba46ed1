"""DDPM++ with DDPM's discrete loss on CIFAR-10, 61.8 M parameters.

Song et al. 2021, table 3: FID 2.78, IS 9.64.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/vp/cifar10_ddpmpp.py --workdir runs/vp_cifar10_ddpmpp
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "cifar10_ddpmpp_continuous.py")
    config.loss.name = "ddpm"
    config.sampling.solver = choice("sampling.solver", "ancestral")
    return config
