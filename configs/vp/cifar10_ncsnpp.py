"""NCSN++ with DDPM's discrete loss on CIFAR-10, 62.7 M parameters.

Published with the code of Song et al. 2021.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/vp/cifar10_ncsnpp.py --workdir runs/vp_cifar10_ncsnpp
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "cifar10_ncsnpp_continuous.py")
    config.loss.name = "ddpm"
    config.sampling.solver = choice("sampling.solver", "reverse_diffusion")
    return config
