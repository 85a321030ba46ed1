"""Class-conditional 8x8 digits in one to four evaluations, from nothing: improved MeanFlow.

The straight path, on which the average velocity of MeanFlow (Geng et al. 2025) is the network's
output, with the times of the paper. The network of configs/digits.py, with a smoother label of the
time, since the loss differentiates it. What it reaches has not been measured yet.

    sde-diffusion train --config configs/digits_meanflow.py --workdir runs/digits_meanflow
    sde-diffusion sample --workdir runs/digits_meanflow --steps 1 --out samples.png
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.data.source = choice("data.source", "digits")
    config.sde = choice("sde", "flow")
    config.network = choice("network", "mlp", features=512, num_blocks=4, num_classes=10)
    config.parameterization = choice("parameterization", "flow", num_scales=10)
    config.flow_map = choice("flow_map", "meanflow", apart=0.5)
    config.loss.weighting = choice("loss.weighting", "constant", on="velocity")
    config.loss.times = choice("loss.times", "logit_normal", mean=-0.4, std=1.0)
    config.optim.update(lr=2e-3, b2=0.99, schedule="cosine", warmup=100, ema_rates=(0.995,))
    config.training.update(
        steps=6000, steps_per_call=50, log_every=50, sample_every=3000, checkpoint_every=2000
    )
    config.sampling.solver = choice("sampling.solver", "flow_map")
    config.sampling.grid = choice("sampling.grid", "uniform")
    config.sampling.steps = 1
    return config
