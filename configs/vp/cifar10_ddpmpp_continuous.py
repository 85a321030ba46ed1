r"""DDPM++ cont. (VP) on CIFAR-10, 61.8 M parameters.

Song et al. 2021, table 3: FID 2.55, IS 9.58; table 2: 3.16 bits/dim.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/vp/cifar10_ddpmpp_continuous.py \
    --workdir runs/vp_cifar10_ddpmpp_continuous
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.sde = choice("sde", "vp", t_min=1e-5)
    config.network = choice(
        "network",
        "ncsnpp",
        embedding_type="positional",
        fir=False,
        progressive_input="none",
        scale_by_sigma=False,
    )
    config.data.source = choice("data.source", "cifar10", path="data/cifar-10-binary.tar.gz")
    config.data.flip = True
    config.sampling.solver = choice("sampling.solver", "euler_maruyama")
    config.sampling.grid = choice("sampling.grid", "uniform")
    config.sampling.steps = 1000
    config.sampling.t_min = 1e-3
    return config
