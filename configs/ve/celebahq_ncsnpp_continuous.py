r"""NCSN++ cont. (VE) on CelebA-HQ, 1024x1024, 105.8 M parameters.

Song et al. 2021, app. H.
Needs several accelerators, and the images as one uint8 array [N, 1024, 1024, 3] in data/.

sde-diffusion train --config configs/ve/celebahq_ncsnpp_continuous.py \
    --workdir runs/ve_celebahq_ncsnpp_continuous
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "bedroom_ncsnpp_continuous.py")
    config.sde.sigma_max = 1348.0
    config.network.update(
        nf=16, ch_mult=(1, 2, 4, 8, 16, 32, 32, 32), num_res_blocks=1, sigma_max=1348.0
    )
    config.optim.ema_rates = (0.9999,)
    config.data.source = choice("data.source", "npy", path="data/celebahq_1024.npy")
    config.training.batch_size = 8
    config.sampling.corrector.snr = 0.15
    config.sampling.batch_size = 1
    return config
