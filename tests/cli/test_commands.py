"""train, sample and evaluate, as a user calls them."""

import json

import numpy as np
import pytest
from PIL import Image

from sde_diffusion.cli import classes, draw, picture, run
from sde_diffusion.config import build
from sde_diffusion.config import schema as configs
from sde_diffusion.data import Feature, Features, load


def test_a_runs_folder_holds_all_about_it(trained):
    held = {path.name for path in trained.iterdir()}
    assert {
        "config.json",
        "data.json",
        "metrics.jsonl",
        "checkpoints",
        "samples",
        "loss.png",
    } <= held
    assert [p.name for p in sorted((trained / "samples").iterdir())] == [
        "step_0000004.png",
        "step_0000008.png",
    ]
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4, 6, 8]
    assert all(np.isfinite(record["loss"]) for record in records)


def test_a_finished_run_has_nothing_left_to_do(trained, tiny, call):
    before = (trained / "metrics.jsonl").read_bytes()
    code, _, err = call("train", "--config", tiny, "--workdir", trained)
    assert code == 0
    assert "already at step 8 of 8" in err
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_sample_draws_a_grid_with_a_column_for_each_class(trained, call, tmp_path):
    out = tmp_path / "new" / "grid.png"
    code, printed, _ = call("sample", "--workdir", trained, "--num", 20, "--out", out)
    assert code == 0
    assert "20 samples of step 8 by dpmpp_2m, 4 evaluations each" in printed
    width, height = Image.open(out).size
    assert (width - picture.GAP) // (width // 10) == 10  # ten columns,
    assert height == pytest.approx(width / 5, abs=3)  # two rows


def test_sample_writes_arrays_in_the_datas_own_range(trained, call, tmp_path):
    out = tmp_path / "samples.npz"
    assert call("sample", "--workdir", trained, "--num", 25, "--out", out)[0] == 0
    arrays = np.load(out, allow_pickle=False)
    assert arrays["image"].shape == (25, 8, 8, 1)
    assert arrays["image"].dtype == np.uint8
    assert arrays["image"].max() <= 16
    np.testing.assert_array_equal(arrays["label"], np.arange(25) % 10)
    source = load("npz", path=str(out), high=16)
    np.testing.assert_array_equal(source.arrays["image"], arrays["image"])


def sampled(trained, call, out, *options):
    assert call("sample", "--workdir", trained, "--out", out, *options)[0] == 0
    return np.load(out)


def test_samples_depend_on_the_seed_and_their_index_alone(trained, call, tmp_path):
    out = tmp_path / "samples.npz"
    whole = sampled(trained, call, out, "--num", 30)["image"].astype(int)
    part = sampled(trained, call, out, "--num", 5)["image"].astype(int)
    assert np.abs(whole[:5] - part).max() <= 1  # rounding to whole numbers
    assert np.abs(whole - sampled(trained, call, out, "--num", 30, "--seed", 1)["image"]).max() > 1


def test_one_class(trained, call, tmp_path):
    arrays = sampled(trained, call, tmp_path / "samples.npz", "--num", 7, "--class", 3)
    np.testing.assert_array_equal(arrays["label"], 3)


def test_solver_steps_and_fields_can_be_chosen(trained, call, tmp_path):
    out = tmp_path / "samples.npz"
    options = ("--solver", "heun", "--steps", 4, "--grid", "uniform", "--num", 5)
    _, printed, _ = call("sample", "--workdir", trained, "--out", out, *options)
    assert "by heun, 9 evaluations each" in printed
    code, printed, _ = call(
        *("sample", "--workdir", trained, "--out", out, "--num", 5),
        "--config.sampling.solver.name=ddim",
        "--config.sampling.solver.eta=1.0",
        "--config.sampling.corrector.name=langevin",
    )
    assert code == 0
    assert "by ddim, 7 evaluations each" in printed


def test_the_last_evaluation_may_be_left_out(trained, call, tmp_path):
    options = ("--solver", "heun", "--steps", 4, "--grid", "uniform", "--num", 5)
    last = "--config.sampling.denoise_last=false"
    _, printed, _ = call(
        "sample", "--workdir", trained, "--out", tmp_path / "samples.npz", *options, last
    )
    assert "by heun, 8 evaluations each" in printed


def test_a_solver_may_be_written_with_its_fields(trained, call, tmp_path):
    out = tmp_path / "samples.npz"
    short = sampled(trained, call, out, "--num", 3, "--solver", "ddim(eta=0.5)")["image"]
    fields = ("--config.sampling.solver.name=ddim", "--config.sampling.solver.eta=0.5")
    np.testing.assert_array_equal(short, sampled(trained, call, out, "--num", 3, *fields)["image"])
    assert np.any(short != sampled(trained, call, out, "--num", 3, "--solver", "ddim")["image"])


def test_a_grid_may_be_written_with_its_fields(trained, call, tmp_path):
    out = tmp_path / "samples.npz"
    made = [
        sampled(trained, call, out, "--num", 20, "--grid", grid)["image"]
        for grid in ("karras(rho=1)", "karras(rho=7)", "karras")
    ]
    assert np.any(made[0] != made[1])
    np.testing.assert_array_equal(made[1], made[2])


def test_the_classes_are_told_by_number_name_and_count():
    label = Feature((), "int32", classes=("cat", "dog", "owl"), counts=(380, 7, 0))
    features = Features({"image": Feature((8, 8, 1), "uint8", 0, 16), "label": label})
    assert classes.class_table(features) == "0 cat (380), 1 dog (7), 2 owl (0)"
    assert classes.class_table(features, most=1) == "0 cat (380), ..."


def test_points_are_drawn_beside_real_ones_where_there_are_some(tmp_path):
    event = Feature((2,), "float32", -1.0, 1.0)
    picture.save(tmp_path / "alone.png", np.ones((5, 2)), event)
    picture.save(tmp_path / "beside.png", np.ones((5, 2)), event, real=np.zeros((10, 2)))
    alone, beside = (Image.open(tmp_path / f"{name}.png") for name in ("alone", "beside"))
    assert beside.size[0] == 2 * alone.size[0] > 100


def test_drawing_again_with_other_labels_does_not_retrace(trained, monkeypatch):
    config = run.read_config(trained, {})
    features = run.read_data(trained).features
    params, _ = run.restore_params(trained, config, features)
    net, traces = build.network(config), []
    original = type(net).__call__

    def counted(self, *args, **kwargs):
        traces.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(net), "__call__", counted)
    draw.draw(config, params, features, 17, seed=0, under=draw.Under(classes.labels(features, 17)))
    first = len(traces)
    draw.draw(
        config, params, features, 17, seed=1, under=draw.Under(classes.labels(features, 17, 3))
    )
    assert len(traces) == first


def test_a_config_survives_json():
    config = configs.default()
    assert configs.differences(configs.from_json(configs.to_json(config)), config) == []


def test_what_an_earlier_version_had_no_field_for_is_at_its_default():
    config = configs.default()
    text = json.loads(configs.to_json(config))
    del text["sampling"]["t_min"], text["sampling"]["denoise_last"], text["mesh"]
    assert configs.differences(configs.from_json(json.dumps(text)), config) == []


def test_a_new_name_brings_the_fields_of_its_choice():
    config = configs.override(
        configs.default(), {"sde.sigma_max": "20", "sde.name": "ve", "network.ch_mult": "(1, 2)"}
    )
    assert build.sde(config).sigma_max == 20.0
    assert config.network.ch_mult == (1, 2)
    assert "beta_max" not in config.sde


def test_every_default_field_is_read_by_the_builder():
    # what the file `build` or a command mentions; a field that nobody reads would be a lie
    from pathlib import Path

    folders = [Path(module.__file__).parent for module in (build, run)]
    text = "".join(path.read_text() for folder in folders for path in folder.glob("*.py"))
    groups = configs.default()
    for group in ("loss", "optim", "data", "training", "sampling", "eval"):
        for field in groups[group]:
            assert f"{group}.{field}" in text.replace("group.", f"{group}."), f"{group}.{field}"
