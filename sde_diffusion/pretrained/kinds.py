"""The classes of diffusers and transformers that are read, by name.

To add one: write its module in `networks`, with the library's names for its fields and parameters,
and a `Kind` here.
"""

import jax
import jax.numpy as jnp

from sde_diffusion.networks.autoencoder_kl import AutoencoderKL
from sde_diffusion.networks.clip_text import CLIPText
from sde_diffusion.networks.unet2d import UNet2D
from sde_diffusion.networks.unet_condition import UNetCondition
from sde_diffusion.pretrained.part import Kind
from sde_diffusion.pretrained.tensors import Renames
from sde_diffusion.pretrained.transformer_kinds import TRANSFORMERS


def _images(module: AutoencoderKL) -> tuple[jax.ShapeDtypeStruct]:
    size = module.factor
    return (jax.ShapeDtypeStruct((1, size, size, module.in_channels), jnp.float32),)


def _tokens(module: CLIPText) -> tuple[jax.ShapeDtypeStruct]:
    return (jax.ShapeDtypeStruct((1, 1), jnp.int32),)


def _latents_and_text(
    module: UNetCondition,
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct, dict[str, jax.ShapeDtypeStruct]]:
    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    size = 2 ** (len(module.block_out_channels) - 1)
    cond = {name: array(*shape) for name, shape in module.told.items()}
    return array(size, size, module.in_channels), array(), cond


def _pixels(module: UNet2D) -> tuple[jax.ShapeDtypeStruct, ...]:
    size = 2 ** (len(module.block_out_channels) - 1)
    shape = (1, size, size, module.in_channels)
    given = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    if module.class_embed_type == "identity":
        vectors = (1, 4 * module.block_out_channels[0])
        return *given, jax.ShapeDtypeStruct(vectors, jnp.float32)
    if module.num_class_embeds is not None:
        return *given, jax.ShapeDtypeStruct((1,), jnp.int32)
    return given


OLD_ATTENTION: Renames = {
    "{block}.attentions.{i}.query.{leaf}": "{block}.attentions.{i}.to_q.{leaf}",
    "{block}.attentions.{i}.key.{leaf}": "{block}.attentions.{i}.to_k.{leaf}",
    "{block}.attentions.{i}.value.{leaf}": "{block}.attentions.{i}.to_v.{leaf}",
    "{block}.attentions.{i}.proj_attn.{leaf}": "{block}.attentions.{i}.to_out.0.{leaf}",
}
"""How diffusers called the attention between pixels until version 0.17."""

AUTOENCODER_KL = Kind(
    AutoencoderKL,
    _images,
    fixed={"act_fn": "silu", "latents_mean": None, "latents_std": None},
    ignored=(
        *("down_block_types", "up_block_types", "force_upcast", "sample_size"),
        *("scaling_factor", "shift_factor"),
    ),
    renames=OLD_ATTENTION,
)

NOT_IN_TEXT_MODEL: Renames = {
    "{model}.embeddings.position_ids": None,
    "embeddings.position_ids": None,
    "embeddings.{rest}": "text_model.embeddings.{rest}",
    "encoder.{rest}": "text_model.encoder.{rest}",
    "final_layer_norm.{rest}": "text_model.final_layer_norm.{rest}",
}
"""transformers 5 leaves out "text_model"; older versions kept the numbers of the places."""

CLIP_IGNORED = (
    *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype"),
    *("attention_dropout", "dropout", "initializer_factor", "initializer_range"),
    *("bos_token_id", "pad_token_id", "use_cache"),
)
CLIP_TEXT = Kind(
    CLIPText,
    _tokens,
    ignored=(*CLIP_IGNORED, "projection_dim"),
    renames=NOT_IN_TEXT_MODEL,
    given={"with_projection": False},
)
CLIP_TEXT_PROJECTED = Kind(
    CLIPText,
    _tokens,
    ignored=CLIP_IGNORED,
    renames=NOT_IN_TEXT_MODEL,
    given={"with_projection": True},
)

UNET_CONDITION = Kind(
    UNetCondition,
    _latents_and_text,
    fixed={
        "act_fn": "silu",
        "attention_type": "default",
        "center_input_sample": False,
        "class_embed_type": None,
        "class_embeddings_concat": False,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_norm": None,
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "mid_block_only_cross_attention": None,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "num_attention_heads": None,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "default",
        "reverse_transformer_layers_per_block": None,
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
    },
    # The softmax is computed in float32 always, which upcast_attention asks for.
    ignored=("sample_size", "dropout", "upcast_attention", "addition_embed_type_num_heads"),
)

UNET_2D = Kind(
    UNet2D,
    _pixels,
    fixed={
        "act_fn": "silu",
        "add_attention": True,
        "mid_block_type": "UNetMidBlock2D",
        "time_embedding_dim": None,
    },
    ignored=("sample_size", "dropout", "num_train_timesteps"),
    renames=OLD_ATTENTION,
)

KINDS: dict[str, Kind] = {
    "AutoencoderKL": AUTOENCODER_KL,
    "CLIPTextModel": CLIP_TEXT,
    "CLIPTextModelWithProjection": CLIP_TEXT_PROJECTED,
    "UNet2DConditionModel": UNET_CONDITION,
    "UNet2DModel": UNET_2D,
    **TRANSFORMERS,
}
