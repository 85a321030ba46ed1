r"""NCSN++ cont. (VE) on FFHQ, 256x256, 65.6 M parameters.

Published with the code of Song et al. 2021.
Needs several accelerators, and the images as one uint8 array [N, 256, 256, 3] in data/.

sde-diffusion train --config configs/ve/ffhq_256_ncsnpp_continuous.py \
    --workdir runs/ve_ffhq_256_ncsnpp_continuous
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "bedroom_ncsnpp_continuous.py")
    config.sde.sigma_max = 348.0
    config.network.sigma_max = 348.0
    config.data.source = choice("data.source", "npy", path="data/ffhq_256.npy")
    return config
