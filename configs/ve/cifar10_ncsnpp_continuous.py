r"""NCSN++ cont. (VE) on CIFAR-10, 62.8 M parameters.

Song et al. 2021, table 3: FID 2.38, IS 9.83.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/ve/cifar10_ncsnpp_continuous.py \
    --workdir runs/ve_cifar10_ncsnpp_continuous
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.sde = choice("sde", "ve", sigma_min=0.01, sigma_max=50.0)
    config.network = choice("network", "ncsnpp", centered=False)
    config.parameterization = choice("parameterization", "ncsn")
    config.loss.reduction = "half_sum"
    config.optim.ema_rates = (0.999,)
    config.data.source = choice("data.source", "cifar10", path="data/cifar-10-binary.tar.gz")
    config.data.update(range=(0.0, 1.0), flip=True)
    config.sampling.solver = choice("sampling.solver", "reverse_diffusion")
    config.sampling.corrector = choice("sampling.corrector", "langevin", snr=0.16)
    config.sampling.grid = choice("sampling.grid", "uniform")
    config.sampling.steps = 1000
    return config
