r"""SD3's MMDiT of depth 24 on latents and embeddings of pictures at 256x256, 2.1 B parameters.

Esser et al. 2024, "Scaling rectified flow transformers for high-resolution image synthesis": a
rectified flow at times with normal logits (sec. 3.1, eq. 19), a network whose width is 64 and whose
heads are 1 for each layer (sec. 4), latents of 16 channels. Batches, steps, learning rate and the
share of pictures without text are ours.

The latents and embeddings are made once, by the frozen parts of a folder of SD3:

sde-diffusion encode --pretrained DIR --text DIR --out data/captioned256 --dtype float16 \
    --config.data.source.name=webdataset --config.data.source.path='data/{0000..0999}.tar' \
    --config.data.source.size=256
sde-diffusion plan --config configs/text_to_image/sd3_medium_256.py --config.preset=tpu \
    --topology v5p:4x4x4 --event 32,32,16
sde-diffusion train --config configs/text_to_image/sd3_medium_256.py --config.preset=tpu \
    --workdir gs://bucket/sd3_medium_256

experiments/pods/plans.py plans it; the table beside it does not have it yet.
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.sde = choice("sde", "flow")
    config.network = choice(
        "network",
        "mmdit",
        sample_size=128,
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=192,
        remat="pointwise",
    )
    config.parameterization = choice("parameterization", "flow", num_scales=1001)
    config.loss.weighting = choice("loss.weighting", "constant", on="velocity")
    config.loss.times = choice("loss.times", "logit_normal")
    config.conditions.text.drop = 0.1
    config.data.source = choice("data.source", "latents", path="data/captioned256")
    config.data.tokens = 77 + 256  # of CLIP and of T5
    config.optim.update(name="adamw", lr=1e-4, weight_decay=0.01, warmup=1000)
    config.training.update(batch_size=1024, steps=500_000)
    config.sampling.solver = choice("sampling.solver", "ddim")
    config.sampling.grid = choice("sampling.grid", "uniform")
    config.sampling.update(steps=49, batch_size=16)
    config.sampling.guidance.weight = 5.0
    return config
