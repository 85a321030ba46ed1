"""Digits of 8x8 pixels from digits of 4x4: two minutes of training on 2 cores.

The network is told the small image beside the noisy one, as in SR3 (Saharia et al. 2021). In
training the small image carries noise of a random level, which the network is told too, so that it
also accepts samples of another model. The two commands below train both stages of a cascade.

    sde-diffusion train --config configs/digits_superres.py --workdir runs/superres
    sde-diffusion train --config configs/digits.py --config.data.source.size=4 --workdir runs/small
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.data.source = choice("data.source", "digits")
    config.sde = choice("sde", "edm", t_min=0.02, t_max=80.0)
    config.network = choice(
        "network", "mlp", features=512, num_blocks=4, label_scale=1000.0, image_channels=2
    )
    config.conditions.image.of = choice(
        "conditions.image.of", "low_resolution", factor=2, noise=0.3
    )
    config.parameterization = choice("parameterization", "edm", sigma_data=0.75)
    config.loss.weighting = choice("loss.weighting", "edm", sigma_data=0.75)
    config.loss.times = choice("loss.times", "log_normal", mean=-1.0, std=1.2)
    config.loss.draw = "stratified"
    config.optim.update(lr=2e-3, b2=0.99, schedule="cosine", warmup=100, ema_rates=(0.995,))
    config.training.update(
        steps=4000, steps_per_call=50, log_every=50, sample_every=2000, checkpoint_every=1000
    )
    config.sampling.grid = choice("sampling.grid", "karras", rho=2.4)
    config.sampling.steps = 19
    return config
