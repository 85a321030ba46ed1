"""A mixture of 25 Gaussians in the plane, learned by an MLP in seconds on a CPU.

sde-diffusion train --config configs/mixture2d.py --workdir runs/mixture2d
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.data.source = choice("data.source", "mixture2d")
    config.sde = choice("sde", "edm")
    config.network = choice("network", "mlp", features=128, octaves=3, label_scale=1000.0)
    config.parameterization = choice("parameterization", "edm", sigma_data=0.7)
    config.loss.weighting = choice("loss.weighting", "edm", sigma_data=0.7)
    config.loss.times = choice("loss.times", "log_normal", mean=-1.5, std=1.2)
    config.loss.draw = "stratified"
    config.optim.update(lr=3e-3, schedule="cosine", warmup=100, ema_rates=(0.995,))
    config.training.update(
        batch_size=512,
        steps=2000,
        steps_per_call=100,
        log_every=100,
        sample_every=1000,
        checkpoint_every=1000,
    )
    config.sampling.grid = choice("sampling.grid", "karras")
    config.sampling.update(steps=30, batch_size=2000)
    return config
