"""sample --pretrained: pictures of a prompt, and one line for what does not fit."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sde_diffusion.cli import main, run

FOLDER = Path(__file__).parents[1] / "reference" / "pretrained" / "sd21"
PROMPT = ("--prompt", "a red fox")


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setattr(run, "enable_cache", lambda: None)


def test_pictures_of_a_prompt(tmp_path, capsys):
    out, size = tmp_path / "fox.png", ("--size", "16x24")
    command = ["sample", "--pretrained", str(FOLDER), *PROMPT, *size, "--steps", "2", "--num", "2"]
    command += ["--negative-prompt", "blurry", "--guidance", "3"]
    assert main([*command, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"2 pictures of 16x24 by DDIM, 4 evaluations each", said)
    assert Image.open(out).size[0] > 2 * 24
    assert main([*command, "--out", str(tmp_path / "fox.npz")]) == 0
    pictures = np.load(tmp_path / "fox.npz")["image"]
    assert pictures.shape == (2, 16, 24, 3)
    assert not np.allclose(pictures[0], pictures[1])
    # A picture is drawn alone as it is among others, and is not changed by tiles of its own size.
    alone = [*command[:-6], "--num", "1", *command[-4:], "--tile", "24"]
    assert main([*alone, "--out", str(tmp_path / "1.npz")]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "1.npz")["image"][0], pictures[0], atol=1e-5)


def test_solvers_are_compared_on_a_prompt(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["compare", "--pretrained", str(FOLDER), *PROMPT, "--size", "16x24", "--fine", "4"]
    command += ["--negative-prompt", "blurry", "--guidance", "3", "--out", str(out)]
    assert main([*command, "--solvers", "ddim,dpmpp_2m", "--nfe", "3", "--grids", "own"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"dpmpp_2m +own +3 +6 ", said)
    assert "2 rows" in said
    assert {path.name for path in out.iterdir()} >= {"results.csv", "pictures.png", "rms.png"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--pretrained needs --prompt"),
        ([*PROMPT, "--workdir", "x"], "--pretrained and --workdir are two networks"),
        ([*PROMPT, "--class", "3"], "--class is for the networks of --workdir"),
        ([*PROMPT, "--config.sampling.steps=3"], "a pretrained folder has no config"),
        ([*PROMPT, "--size", "16"], "--size is written as HEIGHTxWIDTH"),
        ([*PROMPT, "--size", "16x15"], "size must be a multiple of 2, got 16x15"),
        ([*PROMPT, "--tile", "7"], "--tile must be a multiple of 2, from 4, got 7"),
        ([*PROMPT, "--variant", "fp16"], "no weights of variant fp16"),
        ([*PROMPT, "--solver", "ddpm"], "unknown solver 'ddpm'"),
        ([*PROMPT, "--steps", "1"], "at least 2 steps, got 1"),
    ],
)
def test_options_that_do_not_fit_are_told_in_a_line(options, message, tmp_path, capsys):
    out = ("--out", str(tmp_path / "x.png"))
    assert main(["sample", "--pretrained", str(FOLDER), *options, *out]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_neither_a_run_nor_a_pretrained_folder(tmp_path, capsys):
    assert main(["sample", "--out", str(tmp_path / "x.png")]) == 2
    assert "give --workdir, a trained run, or --pretrained" in capsys.readouterr().err


def broken(folder, how):
    """A folder that is not whole in this way."""
    shutil.copytree(FOLDER, folder)
    if how == "truncated":
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
    elif how == "pickled":
        weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_suffix(".bin"))
    elif how == "family":
        index = folder / "model_index.json"
        index.write_text(index.read_text().replace("StableDiffusionP", "KandinskyP"))
    elif how == "no index":
        (folder / "model_index.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "not a whole safetensors file"),
        ("pickled", "is a pickle, which can run any code"),
        ("family", "unknown pipeline 'KandinskyPipeline'.*choices: StableDiffusionPipeline, "),
        ("no index", "is no pipeline of diffusers: there is no model_index.json"),
    ],
)
def test_a_folder_that_is_not_whole_is_told_in_a_line(how, message, tmp_path, capsys):
    folder, out = broken(tmp_path / "folder", how), ("--out", str(tmp_path / "x.png"))
    assert main(["sample", "--pretrained", str(folder), *PROMPT, *out]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, line)


@pytest.mark.parametrize("name", ["v1-5-pruned.ckpt", "weights.bin"])
def test_a_pickled_file_is_refused(name, tmp_path, capsys):
    (tmp_path / name).write_bytes(b"")
    out = ("--out", str(tmp_path / "x.png"))
    assert main(["sample", "--pretrained", str(tmp_path / name), *PROMPT, *out]) == 2
    assert "convert it to safetensors" in capsys.readouterr().err
