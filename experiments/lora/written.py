"""Writes adapters of a small SD 1.5 in both forms, for diffusers to load.

    python experiments/lora/written.py FOLDER
    venv/bin/python experiments/pretrained/reference_lora.py \
        --check FOLDER/diffusers.safetensors tests/reference/pretrained/sd15
    venv/bin/python experiments/pretrained/reference_lora.py \
        --check FOLDER/kohya.safetensors tests/reference/pretrained/sd15

The last two write the network's outputs to FOLDER/FORM.npz. tests/reference/lora/written.npz has
them under the names of the forms; tests/pretrained/test_written_lora.py compares ours with them.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sde_diffusion import lora
from sde_diffusion.pretrained import lora_files
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import read_part

UNET = Path(__file__).parents[2] / "tests/reference/pretrained/sd15/unet"


def adapters(params: Any) -> Any:
    """Random adapters of rank 2 of the attention and of some convolutions."""
    names = "*attn*kernel,*conv1/kernel"
    shapes = jax.eval_shape(lambda: lora.init(jax.random.key(0), params, 2, names))
    rng = np.random.default_rng(0)

    def drawn(leaf: Any) -> np.ndarray:
        return (rng.standard_normal(leaf.shape) / leaf.shape[-2] ** 0.5).astype(np.float32)

    return jax.tree.map(drawn, shapes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    made = adapters(read_part(UNET, KINDS["UNet2DConditionModel"]).params)
    for form in ("diffusers", "kohya"):
        lora_files.write(folder / f"{form}.safetensors", {"unet": made}, form=form)


if __name__ == "__main__":
    main()
