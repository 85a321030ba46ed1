"""NCSN++ at 1000 noise levels on CelebA, 64x64, 62.7 M parameters.

Song et al. 2021, app. H.
Needs an accelerator, and the images as one uint8 array [N, 64, 64, 3] in data/.

sde-diffusion train --config configs/ve/celeba_ncsnpp.py --workdir runs/ve_celeba_ncsnpp
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "cifar10_ncsnpp.py")
    config.sde.sigma_max = 90.0
    config.network.sigma_max = 90.0
    config.data.source = choice("data.source", "npy", path="data/celeba_64.npy")
    config.sampling.corrector.snr = 0.17
    return config
