r"""DiT-B/2 on latents of ImageNet at 256x256, 130 M parameters.

Peebles & Xie 2023. The steps are the 1,400 epochs of their train.py.
Needs accelerators, and data/imagenet256_latents: latents of Stable Diffusion's autoencoder, 32x32x4
and times 0.18215, with their labels, as `data.write_array_record` writes them. Declare their range
as (-1, 1), so that they are taken as they are.

sde-diffusion train --config configs/dit/imagenet256_b2.py --config.preset=tpu \
    --workdir gs://bucket/dit_imagenet256_b2
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.sde = choice("sde", "tabulated", schedule="linear")
    config.network = choice(
        "network",
        "dit",
        size="B",
        patch_size=2,
        num_classes=1000,
        learned_null=("label",),
        remat="pointwise",
    )
    config.conditions.label.drop = 0.1
    config.loss.times = choice("loss.times", "chain")
    config.optim.name = "adamw"
    config.optim.lr = 1e-4
    config.optim.warmup = 0
    config.optim.clip_norm = None
    config.data.source = choice("data.source", "array_record", path="data/imagenet256_latents")
    config.training.batch_size = 256
    config.training.steps = 7_000_000
    # 250 of the 1,000 times; the last evaluation is denoise_last.
    config.sampling.solver = choice("sampling.solver", "ancestral")
    config.sampling.grid = choice("sampling.grid", "linspace")
    config.sampling.steps = 249
    return config
