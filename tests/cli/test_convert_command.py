"""convert: a pretrained model as a folder for diffusers, and one line for what does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest

from sde_diffusion.cli import main
from sde_diffusion.pretrained.folder import read_weights

FOLDER = Path(__file__).parents[1] / "reference" / "pretrained" / "sd15"


def test_a_folder_is_written_in_another_dtype(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["convert", str(FOLDER), "--to", "diffusers", "--dtype", "bfloat16"]
    assert main([*command, "--out", str(out)]) == 0
    assert f"as a folder for diffusers: {out}" in capsys.readouterr().out
    assert json.loads((out / "model_index.json").read_text())["unet"][0] == "diffusers"
    before, after = read_weights(FOLDER / "unet"), read_weights(out / "unet")
    assert set(after) == set(before)
    for name, array in after.items():
        assert str(array.dtype) == "bfloat16"
        np.testing.assert_array_equal(array, before[name].astype(array.dtype))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("v1-5.ckpt", [], "is a pickle, which can run any code"),
        ("absent.safetensors", [], "absent.safetensors: no such file"),
        (FOLDER / "unet/diffusion_pytorch_model.safetensors", [], "not the single file of a"),
        (FOLDER, ["--like", "x"], "leave out like"),
        (FOLDER, ["--variant", "fp16"], "no weights of variant fp16"),
        (FOLDER, ["--config.optim.lr=1"], "a pretrained model has no config"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(source, options, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(source), "--to", "diffusers", *options, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not out.exists()
