r"""Flux's transformer on latents and embeddings of pictures at 1024x1024, 11.9 B parameters.

Black Forest Labs 2024: the network of Flux dev, which is told a weight of guidance. How it was
trained is not published: the flow, the times with normal logits (Esser et al. 2024, eq. 19) and all
numbers of the optimizer are ours. The batch is that of MaxDiffusion's measured step, so that plans
can be read beside it.

The latents and embeddings are made once, by the frozen parts of a folder of Flux:

sde-diffusion encode --pretrained DIR --text DIR --out data/captioned1024 --dtype float16 \
    --config.data.source.name=webdataset --config.data.source.path='data/{0000..0999}.tar' \
    --config.data.source.size=1024
sde-diffusion plan --config configs/text_to_image/flux_1024.py --config.preset=tpu \
    --topology v5p:2x2x1 --event 128,128,16
sde-diffusion train --config configs/text_to_image/flux_1024.py --config.preset=tpu \
    --workdir gs://bucket/flux_1024

experiments/pods/text_to_image.md has its plan.
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.sde = choice("sde", "flow")
    config.network = choice("network", "flux", guidance_embeds=True, remat="gated")
    config.parameterization = choice("parameterization", "flow", num_scales=1001)
    config.loss.weighting = choice("loss.weighting", "constant", on="velocity")
    config.loss.times = choice("loss.times", "logit_normal")
    config.data.source = choice("data.source", "latents", path="data/captioned1024")
    config.data.tokens = 512
    config.optim.update(name="adamw", lr=1e-5, weight_decay=0.01, warmup=100, ema_rates=())
    config.training.update(batch_size=8, steps=10_000)
    config.sampling.solver = choice("sampling.solver", "ddim")
    config.sampling.grid = choice("sampling.grid", "uniform")
    config.sampling.update(steps=27, batch_size=4)
    return config
