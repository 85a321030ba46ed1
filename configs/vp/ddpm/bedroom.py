"""DDPM on LSUN bedrooms, 256x256, 111.6 M parameters.

Ho et al. 2020, table 3: FID 6.36. There: TPU v3-8.
Needs the images as one uint8 array [N, 256, 256, 3] in data/.

sde-diffusion train --config configs/vp/ddpm/bedroom.py --workdir runs/vp_ddpm_bedroom
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "cifar10.py")
    config.network.update(ch_mult=(1, 1, 2, 2, 4, 4), dropout=0.0)
    config.optim.lr = 2e-5
    config.data.source = choice("data.source", "npy", path="data/lsun_bedroom_256.npy")
    config.training.update(batch_size=64, steps=2_400_001)
    config.sampling.batch_size = 16
    return config
