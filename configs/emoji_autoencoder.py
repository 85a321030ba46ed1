"""An autoencoder of OpenMoji's drawings on a CPU: 64x64x3 to latents of 8x8x16.

The network sees patches of 8x8 pixels as one pixel, so that it is all matrix products of the size
that a CPU is good at. What it reaches has not been measured yet.

    sde-diffusion train --config configs/emoji_autoencoder.py --workdir runs/emoji_autoencoder
    sde-diffusion encode --workdir runs/emoji_autoencoder --out data/emoji_latents
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.data.source = choice("data.source", "openmoji", size=64, part="train", seed=0)
    config.network = choice(
        "network",
        "autoencoder_kl",
        patch_size=8,
        block_out_channels=(128,),
        latent_channels=16,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    config.loss.name = "autoencoding"
    config.loss.autoencoding.update(l1=0.5, l2=1.0, kl=1e-3)
    config.optim.update(lr=2e-3, b2=0.99, schedule="cosine", warmup=50, ema_rates=(0.99,))
    config.training.update(
        batch_size=16,
        steps=2400,
        steps_per_call=20,
        log_every=100,
        sample_every=800,
        checkpoint_every=400,
    )
    return config
