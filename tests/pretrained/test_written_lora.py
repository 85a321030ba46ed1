"""Files of adapters that we write, loaded by diffusers: tests/reference/lora/written.npz.

The outputs are those of diffusers 0.42.1 for the files of experiments/lora/written.py.
"""

import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from sde_diffusion import lora
from sde_diffusion.pretrained import lora_files
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import read_part

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "reference" / "pretrained" / "sd15"


@pytest.fixture(scope="module")
def unet():
    return read_part(MODEL / "unet", KINDS["UNet2DConditionModel"])


@pytest.fixture(scope="module")
def made(unet):
    script = runpy.run_path(str(ROOT / "experiments" / "lora" / "written.py"))
    return script["adapters"](unet.params)


def test_diffusers_makes_of_our_files_what_we_make_of_the_adapters(unet, made):
    told = np.load(MODEL / "outputs.npz")
    theirs = np.load(ROOT / "tests" / "reference" / "lora" / "written.npz")

    @jax.jit
    def output(params):
        x, t, text = told["unet.x"], told["unet.t"], told["unet.text"]
        return unet.module.apply({"params": params}, x, t, {"text": text})

    ours = output(lora.merge(unet.params, made))
    assert np.abs(output(unet.params) - ours).max() > 0.1 * np.abs(ours).max()
    for form in ("diffusers", "kohya"):
        assert np.abs(theirs[form] - ours).max() < 1e-4 * np.abs(ours).max()


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_a_file_of_either_form_is_read_again_exactly(unet, made, tmp_path, form):
    file = tmp_path / "x.safetensors"
    lora_files.write(file, {"unet": made}, form=form)
    again = lora_files.read(file, {"network": unet.params})["network"]
    assert jax.tree.all(jax.tree.map(np.array_equal, again, made))


def test_another_form_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match="unknown form of a file of adapters 'a1111'"):
        lora_files.write(tmp_path / "x.safetensors", {"unet": made}, form="a1111")
