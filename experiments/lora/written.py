"""Writes adapters of small pipelines and of their text encoders, for diffusers to load.

    python experiments/lora/written.py FOLDER
    venv/bin/python experiments/pretrained/reference_lora.py --written FOLDER

The first writes FOLDER/MODEL_FORM.safetensors in both forms. The second loads them with diffusers
and writes the outputs of each part to tests/reference/lora/written.npz;
tests/pretrained/test_written_lora.py compares ours with them.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sde_diffusion import lora
from sde_diffusion.pretrained import lora_files
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import Part, read_part

ROOT = Path(__file__).parents[2] / "tests/reference/pretrained"
ALL = "*_proj/kernel,*fc*/kernel"
# The folder, the class and the adapted matrices of each part that diffusers adapts, by model.
PARTS = {
    "sd15": {
        "unet": ("sd15/unet", "UNet2DConditionModel", "*attn*kernel,*conv1/kernel"),
        "text_encoder": ("sd15/text_encoder", "CLIPTextModel", ALL),
    },
    "sdxl": {
        "unet": ("sdxl/unet", "UNet2DConditionModel", "*attn2*kernel"),
        "text_encoder": ("sdxl/text_encoder", "CLIPTextModel", "*_proj/kernel"),
        "text_encoder_2": ("sdxl/text_encoder_2", "CLIPTextModelWithProjection", ALL),
    },
    "sd3": {
        "transformer": ("mmdit_sd3", "SD3Transformer2DModel", "*attn*kernel"),
        "text_encoder": ("sdxl/text_encoder_2", "CLIPTextModelWithProjection", "*q_proj/kernel"),
        "text_encoder_2": ("sdxl/text_encoder_2", "CLIPTextModelWithProjection", "*fc1/kernel"),
    },
    "flux_dev": {
        "transformer": ("flux_dev", "FluxTransformer2DModel", "*attn*kernel"),
        "text_encoder": ("sd15/text_encoder", "CLIPTextModel", "*_proj/kernel"),
    },
}
FORMS = {"sd3": ("diffusers",)}  # diffusers 0.42.1 leaves out all of a file of kohya for SD3


def parts(model: str) -> dict[str, Part]:
    """The parts of a model that have adapters."""
    return {
        part: read_part(ROOT / path, KINDS[kind]) for part, (path, kind, _) in PARTS[model].items()
    }


def adapters(model: str, params: dict[str, Any]) -> dict[str, Any]:
    """Random adapters of rank 2 for the parameters of each part."""
    rng = np.random.default_rng(0)

    def drawn(leaf: Any) -> np.ndarray:
        return (rng.standard_normal(leaf.shape) / leaf.shape[-2] ** 0.5).astype(np.float32)

    def of_part(part: str, tree: Any) -> Any:
        names = PARTS[model][part][2]
        shapes = jax.eval_shape(lambda: lora.init(jax.random.key(0), tree, 2, names))
        return jax.tree.map(drawn, shapes)

    return {part: of_part(part, tree) for part, tree in params.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for model in PARTS:
        made = adapters(model, {part: each.params for part, each in parts(model).items()})
        for form in FORMS.get(model, ("diffusers", "kohya")):
            lora_files.write(folder / f"{model}_{form}.safetensors", made, form=form)


if __name__ == "__main__":
    main()
