"""The optimizer that a config describes."""

import optax
from ml_collections import ConfigDict

from sde_diffusion.training import make_optimizer, make_schedule


def learning_rate(config: ConfigDict) -> optax.Schedule:
    optim = config.optim
    return make_schedule(
        optim.schedule, lr=optim.lr, warmup=optim.warmup, total_steps=config.training.steps
    )


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    optim = config.optim
    return make_optimizer(
        optim.name,
        learning_rate=learning_rate(config),
        b1=optim.b1,
        b2=optim.b2,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        clip_norm=optim.clip_norm,
    )
