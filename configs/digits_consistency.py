"""Class-conditional 8x8 digits in one to four evaluations, from nothing: consistency training.

Easy consistency tuning (Geng et al. 2025, ECT): the first of its stages is close to denoising, and
each later one halves the distance between the two times, so it needs no network to begin with. The
SDE and the network are those of configs/digits.py, with a smoother label of the time.

    sde-diffusion train --config configs/digits_consistency.py --workdir runs/digits_consistency
    sde-diffusion sample --workdir runs/digits_consistency --steps 2 --out samples.png
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.data.source = choice("data.source", "digits")
    config.sde = choice("sde", "edm", t_min=0.02, t_max=80.0)
    config.network = choice(
        "network", "mlp", features=512, num_blocks=4, label_scale=100.0, num_classes=10
    )
    config.parameterization = choice("parameterization", "edm", sigma_data=0.75)
    schedule = "ect(mean=-0.5, std=1.6)"
    config.flow_map = choice("flow_map", "consistency", schedule=schedule, huber=0.03)
    config.optim.update(lr=2e-3, b2=0.99, schedule="cosine", warmup=100, ema_rates=(0.995,))
    config.training.update(
        steps=6000, steps_per_call=50, log_every=50, sample_every=3000, checkpoint_every=2000
    )
    config.sampling.solver = choice("sampling.solver", "flow_map", gamma=1.0)
    config.sampling.grid = choice("sampling.grid", "karras", rho=4.0)
    config.sampling.steps = 2
    return config
