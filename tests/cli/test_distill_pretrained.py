"""distill --pretrained: whole students of a pretrained folder, and adapters."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from sde_diffusion import distributed
from sde_diffusion.cli import main, run
from sde_diffusion.config import build
from sde_diffusion.config import schema as configs
from sde_diffusion.pretrained import load, safetensors
from sde_diffusion.tree_names import named

FOLDER = Path(__file__).parents[1] / "reference" / "pretrained" / "sd15"
FOX = ("--prompt", "a red fox")
SMALL = ("--config.training.batch_size=2", "--config.training.steps=1")
FEW = ("--config.flow_map.steps=1", "--config.flow_map.pairs=1", "--config.flow_map.solver=ddim")


def on_one_device(_):
    """The mesh for which programs compile in a fraction of the time."""
    return distributed.make_mesh(devices=jax.devices()[:1])


def distilled(out, *options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        patch.setattr(build, "mesh", on_one_device)
        command = ["distill", "--pretrained", str(FOLDER), "--out", str(out), *SMALL]
        assert main([*command, *map(str, options)]) == 0
    return out


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Adapters that were trained on the teacher's own samples."""
    out = tmp_path_factory.mktemp("adapters") / "out"
    return distilled(out, *FOX, *FEW, "--size", "8x8", "--guidance", 2, "--lora", 2)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A whole student that is told the weight, trained on images with captions.

    They are fewer than a batch has.
    """
    folder = tmp_path_factory.mktemp("told")
    lines = []
    for k in range(2):
        Image.fromarray(np.full((8, 8, 3), 30 * k, np.uint8)).save(folder / f"{k}.png")
        lines.append(json.dumps({"file_name": f"{k}.png", "text": f"picture {k}"}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    source = {"name": "folder", "path": folder, "captions": "captions.jsonl"}
    options = [f"--config.data.source.{key}={value}" for key, value in source.items()]
    batch = "--config.training.batch_size=3"
    return distilled(folder / "out", *options, batch, "--guidance", "1,8")


@pytest.mark.slow
def test_a_file_of_adapters_samples_in_a_few_evaluations(adapters, call, tmp_path):
    file, out = adapters / "lora.safetensors", tmp_path / "x.npz"
    tensors = safetensors.read(file)
    assert all(name.startswith("unet.") and ".lora_" in name for name in tensors)
    assert any(np.any(np.asarray(tensor)) for name, tensor in tensors.items() if "lora_B" in name)
    command = ("sample", "--pretrained", FOLDER, *FOX, "--size", "8x8", "--lora", file)
    for steps, nfe in (((), "4 evaluations"), (("--steps", 1), "1 evaluation")):
        code, said, _ = call(*command, *steps, "--out", out)
        assert code == 0
        assert f"by FlowMap, {nfe} each" in said
    # The same adapters without the note that they are a consistency model's, as others write them.
    written = tmp_path / "plain.safetensors"
    safetensors.write(written, tensors)
    options = ("--solver", "flow_map(gamma=1)", "--steps", 1, "--out", tmp_path / "y.npz")
    assert call(*command[:-1], written, *options)[0] == 0
    np.testing.assert_array_equal(*(np.load(f)["image"] for f in (out, tmp_path / "y.npz")))


@pytest.mark.slow
def test_a_distillation_of_a_folder_goes_on_where_it_stopped(adapters, capfd):
    distilled(adapters, *FOX, *FEW, "--size", "8x8", "--guidance", 2, "--lora", 2)
    assert "already at step 1 of 1" in capfd.readouterr().err


@pytest.mark.slow
def test_such_a_distillation_goes_on_with_the_same_prompts_alone(adapters, call, monkeypatch):
    monkeypatch.setattr(build, "mesh", on_one_device)
    command = ("distill", "--pretrained", FOLDER, "--out", adapters, *SMALL, *FEW)
    other = ("--prompt", "a blue fox", "--size", "8x8", "--guidance", 2, "--lora", 2)
    code, _, err = call(*command, *other)
    assert code == 2
    assert "trained on other data (prompts: those of fingerprint" in err.splitlines()[-1]


@pytest.mark.slow
def test_a_whole_student_is_a_folder_that_is_told_the_weight(told, call, tmp_path):
    student = told / "student"
    assert json.loads((student / "model_index.json").read_text())["_class_name"].startswith("Late")
    pipe, teacher = load(student), load(FOLDER)
    theirs = named(teacher.model.params["params"])
    ours = named(pipe.model.params["params"])
    assert set(ours) - set(theirs) == {"time_embedding/cond_proj/kernel"}
    assert pipe.told
    # A step at a rate of 8e-6 stays near the teacher.
    for name, leaf in theirs.items():
        np.testing.assert_allclose(ours[name], leaf, atol=1e-4)
    assert np.any(ours["time_embedding/cond_proj/kernel"])
    drawn = []
    for weight in (1, 8):
        out = tmp_path / f"{weight}.npz"
        command = ("sample", "--pretrained", student, *FOX, "--size", "8x8", "--steps", 2)
        code, said, _ = call(*command, "--guidance", weight, "--out", out)
        assert code == 0
        assert "by FlowMap, 2 evaluations each" in said
        drawn.append(np.load(out)["image"])
    assert not np.array_equal(*drawn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "needs --prompts, a file"),
        ((*FOX, "--workdir", "x"), "give --workdir, the run that teaches, or --pretrained"),
        ((*FOX, "--objective", "meanflow"), "a pretrained network has one time"),
        ((*FOX, "--objective", "consistency"), "consistency learns from data"),
        ((*FOX, "--lora", "2", "--guidance", "1,4"), "adapters have no place for"),
        (
            (*FOX, "--lora", "0", "--config.training.batch_size=8"),
            "the rank of an adapter must be a whole number from 1",
        ),
        ((*FOX, "--config.lora.rank=2"), "with --pretrained it is --lora RANK"),
        ((*FOX, "--lora", "2", "--config.lora.alpha=x"), "config.lora.alpha must be a number"),
        ((*FOX, "--size", "9x9"), "size must be a multiple of 2"),
        ((*FOX, "--guidance", "x"), "is written as W or LOW,HIGH, got 'x'"),
        ((*FOX, "--config.sde.beta_max=3"), "--config.sde.beta_max: with --pretrained only"),
        (("--config.data.source.name=digits",), "a pretrained codec takes images [H, W, 3]"),
    ],
)
def test_what_distill_of_a_folder_refuses(options, message, call, tmp_path):
    out = tmp_path / "out"
    size = "--config.training.batch_size=8"
    code, _, err = call("distill", "--pretrained", FOLDER, "--out", out, size, *options)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not out.exists()


@pytest.mark.parametrize("written", ["lora.safetensors", "student", None])
def test_such_a_folder_is_no_run_to_sample(written, call, tmp_path):
    config = configs.override(configs.default(), {"teacher.path": str(FOLDER)})
    (tmp_path / run.CONFIG).write_text(configs.to_json(config))
    expected = "its training has not ended"
    if written is not None:
        (tmp_path / written).mkdir()
        option = "--pretrained" if written == "student" else f"--pretrained {FOLDER} --lora"
        expected = f"use sample {option} {tmp_path / written}"
    code, _, err = call("sample", "--workdir", tmp_path, *FOX, "--out", tmp_path / "x.png")
    assert (code, err.count("\n")) == (2, 1)
    assert expected in err
