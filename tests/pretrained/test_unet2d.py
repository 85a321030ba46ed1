"""DDPM and NCSN++ as diffusers writes them, in pixels and without text.

Folders and outputs are made by experiments/pretrained/reference_unet2d.py.
"""

import functools
import itertools
import json
import shutil
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion import noise, pretrained, samplers
from sde_diffusion.cli import main
from sde_diffusion.comparison import compare_prompts
from sde_diffusion.model import Model
from sde_diffusion.pretrained.folder import read_weights
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import build, read_part
from sde_diffusion.pretrained.unconditional import DDPM_STEPS
from sde_diffusion.samplers import Counted

FOLDERS = Path(__file__).parents[1] / "reference" / "pretrained"
UNET = KINDS["UNet2DModel"]


@functools.cache
def outputs(name):
    with np.load(FOLDERS / name / "outputs.npz") as arrays:
        return dict(arrays)


def config_of(name):
    return json.loads((FOLDERS / name / "unet" / "config.json").read_text())


def with_scheduler(folder, name, **fields):
    """A copy of a pipeline's folder with other fields in its scheduler's config."""
    shutil.copytree(FOLDERS / name, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def assert_same(ours, theirs, tolerance=1e-4):
    assert float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))) < tolerance


@pytest.mark.parametrize("name", ["ddpm", "ncsnpp", "unet2d", "adm", "adm_vector", "ncsnpp_shift"])
def test_the_network_is_that_of_diffusers(name):
    module, params, _ = read_part(FOLDERS / name / "unet", UNET)
    told = outputs(name)
    given = told["unet.x"], jnp.float32(told["unet.t"]), told.get("unet.cond")
    assert_same(jax.jit(module.apply)({"params": params}, *given), told["unet.out"])


def test_a_class_that_is_missing_or_has_no_place_is_told():
    for name, cond, message in (
        ("adm", None, "this U-Net is told classes, and none is given"),
        ("unet2d", jnp.zeros(2, int), "this U-Net is told no class"),
    ):
        module, told = build(UNET, config_of(name), source=name), outputs(name)
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(module.init, jax.random.key(0), told["unet.x"], told["unet.t"], cond)


SCHEDULERS = {
    "ddim": {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": True},
    "small": {},
    "large": {"variance_type": "fixed_large"},
    "no_clip": {"clip_sample": False},
}


@jax.jit
def evaluated(model, x, t):
    return model(x, t)


def sample(pipe, told, scale=1.0, steps=6):
    """The pipeline's sample where every draw of noise is the same array."""
    model, _ = pipe.guided(1)
    counted = Counted(
        Model(model.sde, lambda params, sde, x, t, cond: evaluated(model, x, t.reshape(1)))
    )
    times, _ = pipe.grid(steps)
    state = pipe.solver.init(scale * told["start"], times)
    keys = noise.sample_keys(jax.random.key(0), 1)
    with mock.patch.object(noise, "normal", mock.Mock(return_value=jnp.asarray(told["noise"]))):
        for t, s in itertools.pairwise(times):
            state = pipe.solver.step(keys, counted, state, t, s)
    return counted(state.x, times[-1]).x0


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_samples_of_ddpm_are_those_of_diffusers(scheduler, tmp_path):
    pipe = pretrained.load(with_scheduler(tmp_path / "x", "ddpm", **SCHEDULERS[scheduler]))
    told = outputs("ddpm")
    assert_same(sample(pipe, told), told[f"sample.{scheduler}"])


def test_samples_of_ncsnpp_are_those_of_diffusers():
    # The step's ends differ by diffusers' sampling_eps, 1e-5 of all times.
    pipe, told = pretrained.load(FOLDERS / "ncsnpp"), outputs("ncsnpp")
    assert_same(sample(pipe, told, pipe.model.sde.sigma_max), told["sample.ve"], tolerance=1e-3)


def test_what_a_folder_says_about_sampling():
    ddpm, ncsnpp = pretrained.load(FOLDERS / "ddpm"), pretrained.load(FOLDERS / "ncsnpp")
    assert (ddpm.solver, ddpm.clip, ddpm.steps) == (samplers.Ancestral(), 1.0, DDPM_STEPS)
    assert ddpm.size == ncsnpp.size == (8, 8)
    assert (ncsnpp.model.sde.sigma_max, ncsnpp.clip, ncsnpp.steps) == (50.0, None, 2000)
    langevin = samplers.Langevin(0.2, 1)
    assert ncsnpp.solver == samplers.PredictorCorrector(samplers.ReverseDiffusion(), langevin)
    pixels = jnp.array([0.0, 0.25, 1.0]).reshape(1, 1, 3, 1)
    for pipe, inside in ((ddpm, [-1.0, -0.5, 1.0]), (ncsnpp, [0.0, 0.25, 1.0])):
        encoded = pipe.encode(None, pixels)
        np.testing.assert_allclose(encoded.ravel(), inside)
        np.testing.assert_allclose(pipe.decode(encoded), pixels)


def test_solvers_are_compared_without_a_prompt():
    pipe = pretrained.load(FOLDERS / "ddpm")
    rows = compare_prompts(pipe, 1, "dpmpp_2m,plms", (4,), grids=["own"], fine=4)
    assert [(row["solver"], row["nfe"]) for row in rows] == [("dpmpp_2m", 4), ("plms", 4)]
    assert all(row["finite"] == 1.0 for row in rows)
    with pytest.raises(ValueError, match="has no texts: give the number of samples"):
        compare_prompts(pipe, ["a red fox"], "ddim", (4,))


def test_what_is_written_is_what_was_read(tmp_path):
    folder = tmp_path / "copy"
    like = FOLDERS / "ncsnpp"
    pipe = pretrained.load(like)
    pretrained.save(folder, like, {"unet": pipe.model.params["params"]}, dtype=np.float16)
    before, after = read_weights(like / "unet"), read_weights(folder / "unet")
    assert set(before) == set(after)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    pretrained.convert(like, tmp_path / "converted")
    assert read_weights(tmp_path / "converted" / "unet").keys() == before.keys()


def test_the_command_samples_without_a_prompt(tmp_path, capsys):
    out = tmp_path / "x.npz"
    pretrained_at = ["--pretrained", str(FOLDERS / "ddpm")]
    main(["sample", *pretrained_at, "--num", "2", "--steps", "4", "--out", str(out)])
    assert np.load(out)["image"].shape == (2, 8, 8, 3)
    assert "2 pictures of 8x8 by Ancestral, 4 evaluations each" in capsys.readouterr().out
    for extra, message in (
        (["--prompt", "a fox"], "--prompt: this pretrained model has no texts"),
        (["--guidance", "3"], "has no texts"),
        (["--tile", "64"], "--tile is for models of latents"),
    ):
        assert main(["sample", *pretrained_at, *extra, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"add_attention": False}, "add_attention = False is not supported"),
        ({"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
        ({"up_block_types": ["SkipUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}, "at all of its"),
        ({"time_embedding_type": "learned"}, "choices: positional, fourier"),
    ],
)
def test_a_config_that_is_not_supported_is_one_line(fields, message):
    with pytest.raises(ValueError, match=message):
        build(UNET, config_of("ddpm") | fields, source="unet")


def test_a_network_that_tells_a_variance_is_refused(tmp_path):
    folder = with_scheduler(tmp_path / "x", "ddpm", variance_type="learned_range")
    with pytest.raises(ValueError, match="unknown variance_type 'learned_range'"):
        pretrained.load(folder)
