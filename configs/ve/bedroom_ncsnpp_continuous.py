r"""NCSN++ cont. (VE) on LSUN bedrooms, 256x256, 65.6 M parameters.

Song et al. 2021, app. H.
Needs several accelerators, and the images as one uint8 array [N, 256, 256, 3] in data/.

sde-diffusion train --config configs/ve/bedroom_ncsnpp_continuous.py \
    --workdir runs/ve_bedroom_ncsnpp_continuous
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "cifar10_ncsnpp_continuous.py")
    config.sde.sigma_max = 378.0
    config.network.update(
        ch_mult=(1, 1, 2, 2, 2, 2, 2),
        num_res_blocks=2,
        dropout=0.0,
        progressive="output_skip",
        progressive_input="input_skip",
        sigma_max=378.0,
        num_scales=2000,
    )
    config.data.source = choice("data.source", "npy", path="data/lsun_bedroom_256.npy")
    config.training.update(batch_size=64, steps=2_400_001)
    config.sampling.corrector.snr = 0.075
    config.sampling.update(steps=2000, batch_size=16)
    return config
