"""Text-to-image from nothing: OpenMoji's named drawings at 64x64, on two CPU cores.

A transformer reads the words of a name and draws the picture: narrow layers on patches of 8x8
pixels, with wide ones on patches of 16x16 between them. EDM's preconditioning of the input and its
weighting (Karras et al. 2022, table 1), with a noise distribution moved to higher noise, where the
text decides. docs/text_to_image.md has what it reaches.

    sde-diffusion train --config configs/emoji.py --workdir runs/emoji
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.data.source = choice("data.source", "openmoji", size=64, part="train", seed=0, plain=3)
    config.data.tokens = 13
    config.data.tokenizer = "words"
    config.sde = choice("sde", "edm", t_min=0.05, t_max=80.0)
    config.network = choice(
        "network",
        "text_dit",
        vocabulary=2048,
        patch_size=16,
        depth=6,
        features=384,
        num_heads=6,
        text_depth=1,
        word_rate=10.0,
        fine_depth=1,
        fine_features=128,
        label_scale=250.0,
        dtype="bfloat16",
        remat="pointwise",
    )
    config.conditions.tokens.drop = 0.1
    config.parameterization = choice("parameterization", "x0", sigma_data=0.67)
    config.loss.weighting = choice("loss.weighting", "edm", sigma_data=0.67)
    config.loss.times = choice("loss.times", "log_normal", mean=1.4, std=1.5, t_min=0.1)
    config.loss.draw = "stratified"
    config.optim.update(lr=2e-3, b2=0.99, schedule="cosine", warmup=200, ema_rates=(0.995,))
    config.training.update(
        batch_size=32,
        steps=5000,
        steps_per_call=10,
        log_every=50,
        sample_every=2500,
        checkpoint_every=1000,
    )
    config.sampling.grid = choice("sampling.grid", "karras")
    config.sampling.steps = 15
    config.sampling.guidance.weight = 2.0
    config.sampling.batch_size = 100
    config.eval.update(num=300, bits=16, parts=("combinations", "drawings"))
    return config
