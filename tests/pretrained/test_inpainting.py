"""Filling in a part of a picture by a network of nine channels, against diffusers.

The U-Nets and the pictures are made by experiments/pretrained/reference_inpaint.py; the other parts
are those of sd15 and sdxl.
"""

import itertools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sde_diffusion import pretrained
from sde_diffusion.cli import main, run
from sde_diffusion.model import Model
from sde_diffusion.pipeline import Pipeline
from sde_diffusion.samplers import Counted, Samples

FOLDERS = Path(__file__).parents[1] / "reference" / "pretrained"
# Those of the script.
PROMPTS = ["a red fox", "the little house on the hill, at night"]
NEGATIVE = ["blurry", ""]
STEPS, GUIDANCE = 5, 4.0
DDIM = {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "timestep_spacing": "leading",
}
KEY = jax.random.key(0)


def whole(name, parts, made):
    """The folder of a model that fills in, with the other parts that it was made with."""
    shutil.copytree(FOLDERS / parts, made)
    shutil.rmtree(made / "unet")
    shutil.copytree(FOLDERS / name, made, dirs_exist_ok=True)
    path = made / "scheduler" / "scheduler_config.json"
    # What only another scheduler has may be left in the file; here it is Euler's final_sigmas_type.
    path.write_text(json.dumps(json.loads(path.read_text()) | DDIM))
    return made


def outputs(name):
    with np.load(FOLDERS / name / "outputs.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return whole("inpaint", "sd15", tmp_path_factory.mktemp("inpaint") / "folder")


@pytest.fixture(scope="module")
def told():
    return outputs("inpaint")


@jax.jit
def evaluated(model, x, t, cond):
    return model(x, t, cond)


@pytest.mark.parametrize(("name", "parts"), [("inpaint", "sd15"), ("inpaint_sdxl", "sdxl")])
def test_a_filled_picture_is_that_of_diffusers(name, parts, tmp_path):
    pipe, told = pretrained.load(whole(name, parts, tmp_path / name)), outputs(name)
    filled = {"size": (16, 16), "picture": told["pixels"], "mask": told["mask"]}
    model, cond = pipe.guided(PROMPTS, negative=NEGATIVE, guidance=GUIDANCE, **filled)
    # Step by step, so that the network is compiled once.
    counted = Counted(
        Model(model.sde, lambda _, sde, x, t, cond: evaluated(model, x, jnp.full(2, t), cond))
    )
    times, denoises = pipe.grid(STEPS)
    assert not denoises
    state = pipe.solver.init(jnp.asarray(told["noise"]), times)
    for t, s in itertools.pairwise(times):
        state = pipe.solver.step(None, counted, state, t, s, cond)
    made = pipe.decode(state.x)
    assert np.std(told["picture"]) > 0.05
    assert np.max(np.abs(made - told["picture"])) < 1e-3


def test_a_picture_and_a_mask_are_needed_and_must_fit(folder, told):
    pipe, text = pretrained.load(folder), PROMPTS[:1]
    with pytest.raises(ValueError, match="give a picture and a mask"):
        pipe.latents(KEY, text, picture=told["pixels"])
    with pytest.raises(ValueError, match=r"a mask of \(8, 8\) for samples of \(16, 16\)"):
        pipe.latents(KEY, text, picture=told["pixels"], mask=np.ones((8, 8)))
    plain = pretrained.load(FOLDERS / "sd15")
    with pytest.raises(ValueError, match="fills in no picture"):
        plain.latents(KEY, text, mask=told["mask"])


def test_the_command_fills_in_where_the_mask_is_white(folder, told, tmp_path, capsys, monkeypatch):
    given = {}

    def latents(pipe, key, prompts, **options):
        given.update(options)
        return Samples(jnp.zeros(pipe.latent_shape(1, options["size"])), jnp.int32(5))

    monkeypatch.setattr(run, "enable_cache", lambda: None)
    monkeypatch.setattr(Pipeline, "latents", latents)
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    Image.fromarray((255 * told["pixels"]).astype(np.uint8)).save(image)
    Image.fromarray((255 * told["mask"]).astype(np.uint8)).save(mask)
    command = ["sample", "--pretrained", str(folder), "--prompt", "a red fox"]
    command += ["--out", str(tmp_path / "x.npz")]
    assert main([*command, "--image", str(image), "--mask", str(mask)]) == 0
    assert given["size"] == (16, 16)
    np.testing.assert_allclose(given["picture"], told["pixels"], atol=1 / 255)
    np.testing.assert_array_equal(given["mask"], told["mask"] == 1.0)
    assert main(command) == 2
    assert "fills in a picture: give --image and --mask" in capsys.readouterr().err
