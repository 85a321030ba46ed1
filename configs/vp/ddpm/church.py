"""DDPM on LSUN churches, 256x256, 111.6 M parameters.

Ho et al. 2020, table 3: FID 7.89. There: TPU v3-8.
Needs the images as one uint8 array [N, 256, 256, 3] in data/.

sde-diffusion train --config configs/vp/ddpm/church.py --workdir runs/vp_ddpm_church
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "bedroom.py")
    config.data.source = choice("data.source", "npy", path="data/lsun_church_256.npy")
    return config
