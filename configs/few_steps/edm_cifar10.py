r"""EDM on CIFAR-10, a DDPM++ of 56 M parameters: the diffusion model that others here begin at.

Karras et al. 2022, table 2 (config F, unconditional, VP): FID 1.97 with 35 evaluations. The
reference also augments the images, which is not here, and averages the parameters over half a
million images with a ramp. The two figures are those of its repository (NVlabs/edm); the warm-up
and the rate of the average could not be checked.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/few_steps/edm_cifar10.py --workdir runs/edm_cifar10
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.sde = choice("sde", "edm", t_min=0.002, t_max=80.0)
    config.network = choice(
        "network",
        "ncsnpp",
        ch_mult=(2, 2, 2),
        embedding_type="positional",
        fir=False,
        progressive_input="none",
        scale_by_sigma=False,
        dropout=0.13,
    )
    config.parameterization = choice("parameterization", "edm", sigma_data=0.5)
    config.loss.weighting = choice("loss.weighting", "edm", sigma_data=0.5)
    config.loss.times = choice("loss.times", "log_normal", mean=-1.2, std=1.2)
    config.data.source = choice("data.source", "cifar10", path="data/cifar-10-binary.tar.gz")
    config.data.flip = True
    config.optim.update(lr=1e-3, warmup=20_000, ema_rates=(0.9993,))
    config.training.update(batch_size=512, steps=390_625)
    config.sampling.solver = choice("sampling.solver", "heun")
    config.sampling.grid = choice("sampling.grid", "karras", rho=7.0)
    config.sampling.steps = 17
    return config
