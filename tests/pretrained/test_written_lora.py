"""Files of adapters that we write, loaded by diffusers: tests/reference/lora/written.npz.

The outputs are those of diffusers 0.42.1 for the files of experiments/lora/written.py.
"""

import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from sde_diffusion import lora
from sde_diffusion.pretrained import lora_files, safetensors
from sde_diffusion.pretrained.lora_names import NETWORK

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "reference" / "pretrained"
SCRIPT = runpy.run_path(str(ROOT / "experiments" / "lora" / "written.py"))
THEIRS = np.load(ROOT / "tests" / "reference" / "lora" / "written.npz")
FILES = [
    (model, form)
    for model in SCRIPT["PARTS"]
    for form in SCRIPT["FORMS"].get(model, ("diffusers", "kohya"))
]
# The U-Net of SDXL takes as long to compile as all the others: the writer knows one kind of U-Net.
ADAPTED = [
    (model, part)
    for model, parts in SCRIPT["PARTS"].items()
    for part in parts
    if (model, part) != ("sdxl", "unet")
]


@pytest.fixture(scope="module")
def parts():
    """The parts of each model that have adapters."""
    return {model: SCRIPT["parts"](model) for model in SCRIPT["PARTS"]}


@pytest.fixture(scope="module")
def params(parts):
    return {
        model: {part: each.params for part, each in of_model.items()}
        for model, of_model in parts.items()
    }


@pytest.fixture(scope="module")
def made(params):
    """The adapters that the files have, by model and part."""
    return {model: SCRIPT["adapters"](model, of_model) for model, of_model in params.items()}


def inputs(model, part):
    """What diffusers called a part with, by name."""
    folder = Path(SCRIPT["PARTS"][model][part][0])
    told = np.load(MODELS / folder.parts[0] / "outputs.npz")
    start = f"{folder.name}." if len(folder.parts) == 2 else ""
    names = [name for name in told.files if name.startswith(start)]
    return {name.removeprefix(start): told[name] for name in names}


def in_reference(part):
    return part if part.startswith("text_encoder") else NETWORK


@pytest.mark.parametrize(("model", "part"), ADAPTED)
def test_diffusers_makes_of_our_files_what_we_make_of_the_adapters(
    model, part, parts, params, made
):
    told, module = inputs(model, part), parts[model][part].module

    @jax.jit
    def output(params):
        if part.startswith("text_encoder"):
            return module.apply({"params": params}, told["ids"][3:4]).last
        names = [name for name in ("text", "pooled", "guidance") if name in told]
        cond = {name: told[name] for name in names}
        return module.apply({"params": params}, told["x"], told["t"], cond)

    before = params[model][part]
    ours = output(lora.merge(before, made[model][part]))
    assert np.abs(output(before) - ours).max() > 0.1 * np.abs(ours).max()
    for form in (form for name, form in FILES if name == model):
        theirs = THEIRS[f"{model}_{form}.{in_reference(part)}"]
        assert np.abs(theirs - ours).max() < 1e-4 * np.abs(ours).max()


@pytest.mark.parametrize(("model", "form"), FILES)
def test_a_file_that_diffusers_read_is_read_again_exactly(model, form, params, made, tmp_path):
    file = tmp_path / "x.safetensors"
    lora_files.write(file, made[model], form=form)
    assert sorted(safetensors.read(file)) == list(THEIRS[f"{model}_{form}.names"])
    ours = {in_reference(part): each for part, each in params[model].items()}
    again = lora_files.read(file, ours)
    wanted = {in_reference(part): each for part, each in made[model].items()}
    assert jax.tree.all(jax.tree.map(np.array_equal, again, wanted))


def test_another_form_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match="unknown form of a file of adapters 'a1111'"):
        lora_files.write(tmp_path / "x.safetensors", made["sd15"], form="a1111")
