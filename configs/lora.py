"""Fine-tuning a run on 5 to 20 pictures by low-rank adapters (Hu et al. 2022).

The network and all that belongs to it are those of the base run; the pictures are in a folder, of
the base's size, with a text file beside each of them if the base is told texts.

    sde-diffusion train --config configs/lora.py --workdir runs/style \\
        --config.init_from.path=runs/emoji --config.data.source.path=pictures
    sde-diffusion sample --workdir runs/style --config.lora.weight=0.5 --prompt "red heart" \\
        --out half.png

The base may also be a folder of Stable Diffusion, SDXL, SD3 or Flux as diffusers writes it: see
docs/lora.md.

With --config.lora.rank=None --config.lora.names='*' the same command trains all parameters, from
the base's on.
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.init_from.groups = (
        *("sde", "network", "parameterization", "loss", "codec", "text", "conditions", "sampling"),
        *("data.range", "data.tokens", "data.tokenizer", "data.words"),
    )
    config.data.source = choice("data.source", "folder", path="pictures", size=64, captions="txt")
    config.data.flip = False
    config.lora.update(rank=8, names="*kernel")
    config.optim.update(lr=1e-3, schedule="cosine", warmup=20, ema_rates=(0.98,))
    config.training.update(
        batch_size=16, steps=400, log_every=20, sample_every=200, checkpoint_every=100
    )
    return config
