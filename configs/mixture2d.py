"""A mixture of 25 Gaussians in the plane, learned by an MLP in seconds on a CPU.

sde-diffusion train --config configs/mixture2d.py --workdir runs/mixture2d
"""

from sde_diffusion.cli.config import choice, default


def get_config():
    config = default()
    config.data.source = choice("data.source", "mixture2d")
    config.network = choice("network", "mlp", features=256)
    config.optim.update(lr=2e-3, schedule="cosine", warmup=100, ema_rates=(0.999,))
    config.loss.draw = "stratified"
    config.training.update(
        batch_size=1024,
        steps=3000,
        steps_per_call=50,
        log_every=100,
        sample_every=1000,
        checkpoint_every=1000,
    )
    config.sampling.update(steps=50, batch_size=2000)
    return config
