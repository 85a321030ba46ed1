r"""SDXL's U-Net on latents and embeddings of captioned pictures at 256x256, 2.57 B parameters.

Podell et al. 2024 (SDXL), sec. 2.5: 600,000 steps at 256x256 with batches of 2,048 (then 200,000 at
512x512, then pictures of many shapes of about 1024x1024 pixels), a chain of 1,000 times. The
network is that of Table 1. The learning rate and the share of pictures without text are ours, since
the paper gives neither; pictures are not cropped, so the network is told their size alone.

The latents and embeddings are made once, by the frozen parts of a folder of SDXL:

sde-diffusion encode --pretrained DIR --text DIR --out data/captioned256 --dtype float16 \
    --config.data.source.name=webdataset --config.data.source.path='data/{0000..0999}.tar' \
    --config.data.source.size=256
sde-diffusion plan --config configs/text_to_image/sdxl_256.py --config.preset=tpu \
    --topology v5p:4x4x4 --event 32,32,4
sde-diffusion train --config configs/text_to_image/sdxl_256.py --config.preset=tpu \
    --workdir gs://bucket/sdxl_256

experiments/pods/plans.py plans it; the table beside it does not have it yet.
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.sde = choice("sde", "tabulated", schedule="scaled_linear")
    config.network = choice(
        "network",
        "unet_condition",
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        remat="pointwise",
    )
    config.loss.times = choice("loss.times", "chain")
    config.conditions.text.drop = 0.1
    config.data.source = choice("data.source", "latents", path="data/captioned256")
    config.data.tokens = 77
    config.optim.update(name="adamw", lr=1e-4, weight_decay=0.01, warmup=10_000)
    config.training.update(batch_size=2048, steps=600_000)
    config.sampling.solver = choice("sampling.solver", "ddim")
    config.sampling.grid = choice("sampling.grid", "trailing")
    config.sampling.update(steps=49, batch_size=16)
    config.sampling.guidance.weight = 5.0
    return config
