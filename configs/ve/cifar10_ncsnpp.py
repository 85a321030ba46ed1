"""NCSN++ at 1000 noise levels on CIFAR-10, 62.7 M parameters.

Song et al. 2021, table 3: FID 2.45, IS 9.73.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/ve/cifar10_ncsnpp.py --workdir runs/ve_cifar10_ncsnpp
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "cifar10_ncsnpp_continuous.py")
    config.network.embedding_type = "positional"
    config.parameterization = choice("parameterization", "smld")
    config.loss.name = "smld"
    return config
