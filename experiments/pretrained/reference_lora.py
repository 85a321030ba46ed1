"""Files of adapters in each format, and what diffusers makes of them on the small random models.

    venv/bin/pip install diffusers transformers torch peft
    venv/bin/python experiments/pretrained/reference_lora.py

writes tests/reference/lora/NAME.safetensors for each NAME below, and outputs.npz with the outputs
of the adapted parts, for the inputs that tests/reference/pretrained has already. `reference.py` and
`reference_transformers.py` made the models.

    venv/bin/python experiments/pretrained/reference_lora.py --written FOLDER

loads the files that `experiments/lora/written.py` wrote with diffusers, prints the largest change
of each output, and writes the outputs to tests/reference/lora/written.npz.
"""

import argparse
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2] / "tests" / "reference"
MODELS, TARGET = ROOT / "pretrained", ROOT / "lora"
RANK = 2

ATTENTION = "attentions.0.transformer_blocks.0"
SD_UNET = [
    "conv_in",
    "time_embedding.linear_1",
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.0.resnets.0.time_emb_proj",
    "down_blocks.0.downsamplers.0.conv",
    f"down_blocks.1.{ATTENTION}.attn1.to_q",
    f"down_blocks.1.{ATTENTION}.attn1.to_out.0",
    "down_blocks.1.attentions.0.proj_in",
    f"mid_block.{ATTENTION}.attn2.to_k",
    f"up_blocks.1.{ATTENTION}.ff.net.0.proj",
    f"up_blocks.1.{ATTENTION}.ff.net.2",
    "up_blocks.0.upsamplers.0.conv",
    "up_blocks.1.resnets.1.conv_shortcut",
]
SD_ATTENTION = [f"down_blocks.1.{ATTENTION}.attn1.{name}" for name in ("to_q", "to_v", "to_out.0")]
TEXT = ["encoder.layers.0.mlp.fc1", "encoder.layers.1.mlp.fc2"]
# Of a text encoder's attention in files of kohya, diffusers 0.42.1 reads nothing where the output
# projection has no adapter.
TEXT_ATTENTION = ["encoder.layers.0.self_attn.q_proj", "encoder.layers.1.mlp.fc2"]
# (kohya's name, the module) of SDXL's U-Net of three levels with one residual block each.
SDXL_UNET = [
    ("input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1"),
    ("input_blocks_2_0_op", "down_blocks.0.downsamplers.0.conv"),
    ("input_blocks_3_1_transformer_blocks_0_attn1_to_q", f"down_blocks.1.{ATTENTION}.attn1.to_q"),
    ("input_blocks_5_1_proj_in", "down_blocks.2.attentions.0.proj_in"),
    ("input_blocks_5_0_skip_connection", "down_blocks.2.resnets.0.conv_shortcut"),
    ("middle_block_1_transformer_blocks_0_ff_net_2", f"mid_block.{ATTENTION}.ff.net.2"),
    ("middle_block_2_out_layers_3", "mid_block.resnets.1.conv2"),
    ("output_blocks_1_2_conv", "up_blocks.0.upsamplers.0.conv"),
    ("output_blocks_2_1_transformer_blocks_0_attn2_to_v", f"up_blocks.1.{ATTENTION}.attn2.to_v"),
    ("output_blocks_4_0_emb_layers_1", "up_blocks.2.resnets.0.time_emb_proj"),
]
FLUX = [
    ("double_blocks_0_img_attn_proj", ["transformer_blocks.0.attn.to_out.0"]),
    (
        "double_blocks_1_txt_attn_qkv",
        [f"transformer_blocks.1.attn.add_{name}_proj" for name in "qkv"],
    ),
    ("double_blocks_0_img_mlp_2", ["transformer_blocks.0.ff.net.2"]),
    ("single_blocks_1_linear2", ["single_transformer_blocks.1.proj_out"]),
    ("single_blocks_0_modulation_lin", ["single_transformer_blocks.0.norm.linear"]),
]
FLUX_PEFT = [
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.1.ff_context.net.0.proj",
    "single_transformer_blocks.1.proj_mlp",
    "x_embedder",
]


class Drawn:
    """Random pairs of matrices for modules of a model."""

    def __init__(self, model: torch.nn.Module, seed: int) -> None:
        self.modules = dict(model.named_modules())
        self.generator = torch.Generator().manual_seed(seed)

    def pair(self, names: list[str], rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
        """down [r, in, ...] and up [out, r, ...] of modules whose matrices are stacked in rows."""
        names = [name if name in self.modules else f"text_model.{name}" for name in names]
        weights = [self.modules[name].weight for name in names]
        inner, rows = weights[0].shape[1:], sum(len(weight) for weight in weights)
        down = self._normal(rank, *inner) / inner.numel() ** 0.5
        up = self._normal(rows, rank, *(1 for _ in inner[1:])) / rank**0.5
        return down.half(), up.half()

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)


def kohya(name: str, pair: tuple[torch.Tensor, torch.Tensor], alpha: float) -> dict:
    down, up = pair
    told = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(alpha)}
    return {f"{name}.{key}": value.contiguous() for key, value in told.items()}


def sd15_kohya(pipe: diffusers.DiffusionPipeline) -> dict[str, torch.Tensor]:
    unet, text = Drawn(pipe.unet, 0), Drawn(pipe.text_encoder, 1)
    made = {}
    # One alpha for all: diffusers 0.42.1 leaves out some of several, see `alphas`.
    for name in SD_UNET:
        made |= kohya(f"lora_unet_{name.replace('.', '_')}", unet.pair([name]), 1.0)
    for name in TEXT:
        key = f"lora_te_text_model_{name.replace('.', '_')}"
        made |= kohya(key, text.pair([name]), 1.0)
    return made


def sd15_old(pipe: diffusers.DiffusionPipeline) -> dict[str, torch.Tensor]:
    """As diffusers wrote attention processors until version 0.22."""
    unet, text = Drawn(pipe.unet, 2), Drawn(pipe.text_encoder, 3)
    made = {}
    for name in SD_ATTENTION:
        down, up = unet.pair([name])
        key = "unet." + name.replace("attn1.", "attn1.processor.").removesuffix(".0") + "_lora"
        made |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    for name in TEXT_ATTENTION:
        down, up = text.pair([name])
        key = f"text_encoder.text_model.{name}.lora_linear_layer"
        made |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    return made


def sdxl_kohya(pipe: diffusers.DiffusionPipeline) -> dict[str, torch.Tensor]:
    unet = Drawn(pipe.unet, 4)
    made = {}
    for name, module in SDXL_UNET:
        made |= kohya(f"lora_unet_{name}", unet.pair([module]), 1.0)
    for number, encoder in ((1, pipe.text_encoder), (2, pipe.text_encoder_2)):
        text = Drawn(encoder, 4 + number)
        for name in TEXT:
            key = f"lora_te{number}_text_model_{name.replace('.', '_')}"
            made |= kohya(key, text.pair([name]), 4.0)
    return made


def flux_kohya(pipe: diffusers.DiffusionPipeline) -> dict[str, torch.Tensor]:
    network = Drawn(pipe.transformer, 7)
    made = {}
    for name, modules in FLUX:
        made |= kohya(f"lora_unet_{name}", network.pair(modules), 1.0)
    return made


def write_with_alpha(pipe: diffusers.DiffusionPipeline, part: str, modules: list[str]) -> None:
    """A file that diffusers writes itself, with alpha in its header."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    model = getattr(pipe, part)
    model.add_adapter(LoraConfig(r=RANK, lora_alpha=3, target_modules=modules))
    drawn = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                noise = torch.randn(parameter.shape, generator=drawn)
                parameter.copy_((noise / parameter.shape[1] ** 0.5).half().float())
    state = {key: value.half() for key, value in get_peft_model_state_dict(model).items()}
    config = model.peft_config["default"].to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    pipe.save_lora_weights(
        TARGET,
        **{f"{part}_lora_layers": state, f"{part}_lora_adapter_metadata": config},
        weight_name=f"{NAMES[id(pipe)]}.safetensors",
    )


NAMES: dict[int, str] = {}
FILES = {
    "sd15_kohya": ("sd15", sd15_kohya),
    "sd15_old": ("sd15", sd15_old),
    "sd15_peft": ("sd15", lambda pipe: write_with_alpha(pipe, "unet", SD_UNET)),
    "sdxl_kohya": ("sdxl", sdxl_kohya),
    "flux_kohya": ("flux_dev", flux_kohya),
    "flux_peft": ("flux_dev", lambda pipe: write_with_alpha(pipe, "transformer", FLUX_PEFT)),
}


def pipeline(name: str) -> diffusers.DiffusionPipeline:
    if not name.startswith(("flux", "sd3")):
        return diffusers.DiffusionPipeline.from_pretrained(
            MODELS / name, torch_dtype=torch.float32, safety_checker=None
        )

    def part(kind: type, folder: str) -> torch.nn.Module:
        return kind.from_pretrained(MODELS / folder, torch_dtype=torch.float32)

    if name == "sd3":
        clip = transformers.CLIPTextModelWithProjection
        parts = {
            "transformer": part(diffusers.SD3Transformer2DModel, "mmdit_sd3"),
            "text_encoder": part(clip, "sdxl/text_encoder_2"),
            "text_encoder_2": part(clip, "sdxl/text_encoder_2"),
        }
        others = ("text_encoder_3", "tokenizer_3", *OTHERS)
        return diffusers.StableDiffusion3Pipeline(**dict.fromkeys(others) | parts)
    parts = {
        "transformer": part(diffusers.FluxTransformer2DModel, name),
        "text_encoder": part(transformers.CLIPTextModel, "sd15/text_encoder"),
    }
    return diffusers.FluxPipeline(**dict.fromkeys(("text_encoder_2", *OTHERS)) | parts)


OTHERS = ("scheduler", "vae", "tokenizer", "tokenizer_2")
# Where the inputs of a part are, if not in the folder of the model: a folder and its part there.
INPUTS = {
    "sd3": {
        "network": ("mmdit_sd3", ""),
        "text_encoder": ("sdxl", "text_encoder_2"),
        "text_encoder_2": ("sdxl", "text_encoder_2"),
    },
    "flux_dev": {"network": ("flux_dev", ""), "text_encoder": ("sd15", "text_encoder")},
}


def inputs(name: str, part: str) -> dict[str, torch.Tensor]:
    """The inputs of a part by name."""
    own = (name, "unet" if part == "network" else part)
    folder, there = INPUTS.get(name, {}).get(part, own)
    told = np.load(MODELS / folder / "outputs.npz")
    start = f"{there}." if there else ""
    names = [key for key in told.files if key.startswith(start)]
    return {key.removeprefix(start): torch.from_numpy(told[key]) for key in names}


def outputs(pipe: diffusers.DiffusionPipeline, name: str) -> dict[str, np.ndarray]:
    """What the parts make of the inputs of outputs.npz in the folders of the parts."""
    network = {"sd3": sd3_output, "flux_dev": flux_output}.get(name, unet_output)
    with torch.no_grad():
        made = {"network": network(pipe, inputs(name, "network"))}
        for part in ("text_encoder", "text_encoder_2"):
            if getattr(pipe, part, None) is not None:
                encoded = getattr(pipe, part)(inputs(name, part)["ids"][3:4].long())
                made[part] = encoded.last_hidden_state.numpy()
    return made


def unet_output(pipe: diffusers.DiffusionPipeline, told: dict[str, torch.Tensor]) -> np.ndarray:
    added = None
    if "pooled" in told:
        added = {"text_embeds": told["pooled"], "time_ids": told["sizes"]}
    x, t = told["x"].movedim(-1, 1), told["t"]
    out = pipe.unet(x, t, encoder_hidden_states=told["text"], added_cond_kwargs=added)
    return out.sample.movedim(1, -1).numpy()


def sd3_output(pipe: diffusers.DiffusionPipeline, told: dict[str, torch.Tensor]) -> np.ndarray:
    out = pipe.transformer(
        hidden_states=told["x"].movedim(-1, 1),
        timestep=told["t"],
        pooled_projections=told["pooled"],
        encoder_hidden_states=told["text"],
    )
    return out.sample.movedim(1, -1).numpy()


def flux_output(pipe: diffusers.DiffusionPipeline, told: dict[str, torch.Tensor]) -> np.ndarray:
    x = told["x"].movedim(-1, 1)
    batch, channels, height, width = x.shape
    packed = diffusers.FluxPipeline._pack_latents(x, batch, channels, height, width)
    ids = diffusers.FluxPipeline._prepare_latent_image_ids(
        batch, height // 2, width // 2, "cpu", torch.float32
    )
    out = pipe.transformer(
        hidden_states=packed,
        timestep=told["t"].float() / 1000,
        guidance=told["guidance"].float(),
        pooled_projections=told["pooled"],
        encoder_hidden_states=told["text"],
        txt_ids=torch.zeros(told["text"].shape[1], 3),
        img_ids=ids,
    ).sample
    rows = out.reshape(batch, height // 2, width // 2, channels, 2, 2)
    return rows.permute(0, 1, 4, 2, 5, 3).reshape(batch, height, width, channels).numpy()


def written(folder: Path) -> None:
    """Load the files in a folder with diffusers, and write what the parts make of their inputs."""
    told = {}
    for file in sorted(folder.glob("*.safetensors")):
        model, _, _ = file.stem.rpartition("_")
        pipe = pipeline(model)
        before = outputs(pipe, model)
        pipe.load_lora_weights(file)
        for part, value in outputs(pipe, model).items():
            change = np.abs(value - before[part]).max()
            print(f"{file.stem:20s} {part:16s} {change:.3f} of {np.abs(value).max():.3f}")
            told[f"{file.stem}.{part}"] = value
        with safe_open(file, "np") as tensors:
            told[f"{file.stem}.names"] = np.array(sorted(tensors.keys()))
    np.savez_compressed(TARGET / "written.npz", **told)


def alphas() -> None:
    """Print where the factor of diffusers is not alpha / rank, if modules differ in alpha.

    It hands PEFT a pattern for each alpha that is not the most frequent one. Those of the
    attention's queries, keys, values and outputs have the names of processors, which older versions
    had ("attn1.processor.to_q_lora.down.weight"), and those of a text encoder begin with
    "text_model", which transformers 5 leaves out. PEFT warns that they match no module, and these
    modules get the most frequent alpha.
    """
    pipe, made, told = pipeline("sd15"), {}, {}
    unet, text = Drawn(pipe.unet, 0), Drawn(pipe.text_encoder, 1)
    for i, name in enumerate(SD_UNET):
        alpha = 1.0 + i % 3
        made |= kohya(f"lora_unet_{name.replace('.', '_')}", unet.pair([name]), alpha)
        told[name] = alpha / RANK
    for i, name in enumerate(TEXT):
        key = f"lora_te_text_model_{name.replace('.', '_')}"
        made |= kohya(key, text.pair([name]), 1.0 + i)
        told[f"text_encoder.{name}"] = (1.0 + i) / RANK
    file = Path("alphas.safetensors")
    save_file(made, file)
    pipe.load_lora_weights(file)
    file.unlink()
    for start, model in (("", pipe.unet), ("text_encoder.", pipe.text_encoder)):
        for name, module in model.named_modules():
            key = f"{start}{name.removeprefix('text_model.')}"
            if hasattr(module, "scaling") and key in told:
                (scaling,) = module.scaling.values()
                same = "" if scaling == told[key] else "  another one"
                print(f"{key:70s} {scaling:.2f}  alpha / rank is {told[key]:.2f}{same}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--written", type=Path, metavar="FOLDER")
    parser.add_argument("--alphas", action="store_true", help="where alphas of diffusers differ")
    args = parser.parse_args()
    if args.alphas:
        alphas()
        return
    if args.written:
        written(args.written)
        return
    TARGET.mkdir(parents=True, exist_ok=True)
    told = {}
    for name, (model, make) in FILES.items():
        pipe, path = pipeline(model), TARGET / f"{name}.safetensors"
        NAMES[id(pipe)] = name
        made = make(pipe)
        if made is not None:
            save_file(made, path)
        pipe = pipeline(model)
        before = outputs(pipe, model)
        pipe.load_lora_weights(path)
        after = outputs(pipe, model)
        for part, value in after.items():
            change = np.abs(value - before[part]).max()
            print(f"{name:12s} {part:16s} {change:.3f} of {np.abs(value).max():.3f}")
            if change > 0:
                told[f"{name}.{part}"] = value
    pipe = pipeline("sd15")
    for name in ("sd15_kohya", "sd15_peft"):
        pipe.load_lora_weights(TARGET / f"{name}.safetensors", adapter_name=name)
    pipe.set_adapters(["sd15_kohya", "sd15_peft"], [0.7, -0.5])
    told |= {f"sd15_both.{part}": value for part, value in outputs(pipe, "sd15").items()}
    np.savez_compressed(TARGET / "outputs.npz", **told)


if __name__ == "__main__":
    main()
