r"""DDPM cont. (VP) on CIFAR-10, 35.2 M parameters.

Song et al. 2021, table 2: 3.21 bits/dim, FID 3.69 (ODE).
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/vp/ddpm/cifar10_continuous.py \
    --workdir runs/vp_ddpm_cifar10_continuous
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.sde = choice("sde", "vp", t_min=1e-5)
    config.network = choice("network", "ddpm")
    config.data.source = choice("data.source", "cifar10", path="data/cifar-10-binary.tar.gz")
    config.data.flip = True
    config.sampling.solver = choice("sampling.solver", "euler_maruyama")
    config.sampling.grid = choice("sampling.grid", "uniform")
    config.sampling.steps = 1000
    config.sampling.t_min = 1e-3
    return config
