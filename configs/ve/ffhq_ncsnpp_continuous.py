r"""NCSN++ cont. (VE) on FFHQ, 1024x1024, 105.8 M parameters.

Published with the code of Song et al. 2021.
Needs several accelerators, and the images as one uint8 array [N, 1024, 1024, 3] in data/.

sde-diffusion train --config configs/ve/ffhq_ncsnpp_continuous.py \
    --workdir runs/ve_ffhq_ncsnpp_continuous
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "celebahq_ncsnpp_continuous.py")
    config.loss.reduction = "mean"
    config.data.source = choice("data.source", "npy", path="data/ffhq_1024.npy")
    return config
