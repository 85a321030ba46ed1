"""The transformers among the classes that are read: SD3, Flux, DiT, T5 and BERT."""

from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion.networks.bert import BERT
from sde_diffusion.networks.dit_diffusers import DiffusersDiT
from sde_diffusion.networks.flux import PACKED, Flux
from sde_diffusion.networks.mmdit import MMDiT
from sde_diffusion.networks.t5 import T5Encoder
from sde_diffusion.pretrained.part import Kind
from sde_diffusion.pretrained.tensors import Renames


def _array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *shape), dtype)


def _latents_and_text(module: MMDiT | Flux) -> tuple[Any, ...]:
    cond = {name: _array(*shape) for name, shape in module.told.items()}
    if isinstance(module, MMDiT):
        return _array(module.patch_size, module.patch_size, module.in_channels), _array(), cond
    return _array(PACKED, PACKED, module.in_channels // PACKED**2), _array(), cond


def _latents_and_class(module: DiffusersDiT) -> tuple[Any, ...]:
    size = module.patch_size
    return _array(size, size, module.in_channels), _array(), _array(dtype=jnp.int32)


def _tokens(module: T5Encoder | BERT) -> tuple[Any, ...]:
    return (_array(1, dtype=jnp.int32),)


MMDIT = Kind(MMDiT, _latents_and_text)
FLUX = Kind(Flux, _latents_and_text, fixed={"patch_size": 1})
DIT = Kind(
    DiffusersDiT,
    _latents_and_class,
    fixed={
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_elementwise_affine": False,
        "norm_type": "ada_norm_zero",
    },
    ignored=("dropout", "norm_num_groups", "upcast_attention"),
)

OF_TRANSFORMERS = (
    *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("initializer_factor", "initializer_range", "use_cache"),
)
"""Fields of any config of transformers that change nothing about an encoder."""

T5_TIED: Renames = {"encoder.embed_tokens.weight": None}
"""Some files have the table of token vectors, shared.weight, under its second name as well."""

T5 = Kind(
    T5Encoder,
    _tokens,
    fixed={
        "dense_act_fn": "gelu_new",
        "feed_forward_proj": "gated-gelu",
        "is_gated_act": True,
    },
    ignored=(
        *OF_TRANSFORMERS,
        *("classifier_dropout", "dropout_rate", "is_encoder_decoder", "n_positions"),
        *("num_decoder_layers", "output_past", "scale_decoder_outputs", "task_specific_params"),
        *("tie_word_embeddings",),
    ),
    renames=T5_TIED,
)

BERT_OLD: Renames = {
    "embeddings.position_ids": None,
    "bert.embeddings.position_ids": None,
    "cls.{rest}": None,
    "{layer}.LayerNorm.gamma": "{layer}.LayerNorm.weight",
    "{layer}.LayerNorm.beta": "{layer}.LayerNorm.bias",
    "bert.{rest}": "{rest}",
}
"""Older files number the places, and files of BertForPreTraining have another head as well."""

BERT_MODEL = Kind(
    BERT,
    _tokens,
    fixed={"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False},
    ignored=(
        *OF_TRANSFORMERS,
        *("attention_probs_dropout_prob", "classifier_dropout", "gradient_checkpointing"),
        *("hidden_dropout_prob", "tie_word_embeddings"),
    ),
    renames=BERT_OLD,
)

TRANSFORMERS: dict[str, Kind] = {
    "SD3Transformer2DModel": MMDIT,
    "FluxTransformer2DModel": FLUX,
    "DiTTransformer2DModel": DIT,
    "T5EncoderModel": T5,
    "BertModel": BERT_MODEL,
}
