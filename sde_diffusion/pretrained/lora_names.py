"""How files of adapters name the matrices of a pipeline.

    diffusers, PEFT    PART.MODULE, with the names that diffusers has for modules
    kohya              PREFIX_MODULE, with an underscore for each dot of the module's name

A dot and an underscore are not told apart in kohya's names, so these are looked up in a table of
the names of the model's own modules. That is also where the original repositories' names stand,
which kohya has for SDXL (see `single_file`) and for Flux (`FLUX`), whose queries, keys and values
are one matrix.
"""

from collections.abc import Iterable
from typing import Any

from sde_diffusion.pretrained.single_file import RESNET, unet_blocks
from sde_diffusion.pretrained.tensors import names_and_shapes, originals

NETWORK = "network"  # the part whose folder is unet or transformer
SUFFIX = ".weight"

PREFIXES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    NETWORK: (
        ("unet.", "transformer.", "diffusion_model.", "base_model.model.", ""),
        ("lora_unet_", "lora_transformer_"),
    ),
    "text_encoder": (("text_encoder.",), ("lora_te_", "lora_te1_")),
    "text_encoder_2": (("text_encoder_2.",), ("lora_te2_",)),
    "text_encoder_3": (("text_encoder_3.",), ("lora_te3_",)),
}
"""What a name begins with, by part: with dots, and with underscores."""
KOHYA_T5 = "lora_te3_"
"""What kohya's names of T5 begin with, which is the second encoder of Flux and the third of SD3."""

QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
FLUX_DOUBLE: dict[str, tuple[str, ...]] = {
    "img_attn.qkv": QKV,
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_attn.qkv": ADDED_QKV,
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
}
FLUX_SINGLE: dict[str, tuple[str, ...]] = {
    "linear1": (*QKV, "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
FLUX: dict[str, tuple[str, ...]] = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
}
"""Flux's original names; the rows of a matrix are those of several of ours, in this order."""

Modules = tuple[str, ...]


def table(part: str, params: Any) -> dict[str, Modules]:
    """The names of a part's matrices in files -> the modules that hold their rows.

    Args:
        part: a key of PREFIXES.
        params: the part's parameters, or their shapes.
    """
    shapes = names_and_shapes(params)
    modules = [
        name.removesuffix(SUFFIX)
        for name, shape in shapes.items()
        if name.endswith(SUFFIX) and len(shape) > 1
    ]
    known: dict[str, Modules] = {}
    for module in modules:
        known |= dict.fromkeys([*_second_names(part, module), module], (module,))
    if part == NETWORK:
        known |= _stable_diffusion(modules) | _flux(modules)
    dotted, underscored = PREFIXES[part]
    if is_t5(modules):
        underscored = (KOHYA_T5, *underscored)
    made: dict[str, Modules] = {}
    for name, found in known.items():
        plain = name.replace(".", "_")
        made |= dict.fromkeys((f"{prefix}{plain}" for prefix in underscored), found)
    for name, found in known.items():
        made |= dict.fromkeys((f"{prefix}{name}" for prefix in dotted), found)
    return made


def is_t5(modules: Iterable[str]) -> bool:
    """Whether modules of these names, of diffusers, are those of T5."""
    return any(module.startswith("encoder.block.") for module in modules)


def _second_names(part: str, module: str) -> Iterable[str]:
    """transformers 5 leaves out "text_model"."""
    return [] if part == NETWORK else [module.removeprefix("text_model.")]


def _stable_diffusion(modules: Iterable[str]) -> dict[str, Modules]:
    """The names of the original repositories of Stable Diffusion and SDXL."""
    blocks = [name.split(".") for name in modules if name.startswith("down_blocks.")]
    if not blocks:
        return {}
    levels = 1 + max(int(block[1]) for block in blocks)
    layers = 1 + max(int(block[3]) for block in blocks if block[2] == "resnets")
    renames = unet_blocks(levels, layers)
    made: dict[str, Modules] = {}
    for module in modules:
        inner = [f"{module}{SUFFIX}", *originals(f"{module}{SUFFIX}", RESNET)]
        for name in (theirs for each in inner for theirs in originals(each, renames)):
            made[name.removesuffix(SUFFIX)] = (module,)
    return made


def _flux(modules: Iterable[str]) -> dict[str, Modules]:
    """The names of the original repository of Flux."""
    known = set(modules)
    found = dict(FLUX)
    for ours, theirs, names in (
        ("transformer_blocks", "double_blocks", FLUX_DOUBLE),
        ("single_transformer_blocks", "single_blocks", FLUX_SINGLE),
    ):
        numbers = {name.split(".")[1] for name in known if name.startswith(f"{ours}.")}
        for i in numbers:
            for name, parts in names.items():
                found[f"{theirs}.{i}.{name}"] = tuple(f"{ours}.{i}.{part}" for part in parts)
    return {name: parts for name, parts in found.items() if known.issuperset(parts)}
