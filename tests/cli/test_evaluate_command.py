"""evaluate, and what it does where not all can be had; sample without the data."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sde_diffusion import EDM, data, from_x0
from sde_diffusion.analytic import Gaussian
from sde_diffusion.cli import draw, evaluate, main, picture, run
from sde_diffusion.config import build


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory, tiny_text):
    """The folder of a tiny run on images of class 0, and one in ten of class 2; none of class 1."""
    folder = tmp_path_factory.mktemp("two_classes")
    label = np.where(np.arange(60) % 10 == 0, 2, 0)
    x = np.random.default_rng(0).integers(0, 100, (60, 8, 8, 1)) + 50 * label[:, None, None, None]
    np.savez(folder / "data.npz", image=x.astype(np.uint8), label=label)
    text = tiny_text.replace("num_classes=10", "num_classes=3")
    source = f'choice("data.source", "npz", path="{folder / "data.npz"}")'
    text = text.replace('choice("data.source", "digits")', source)
    (folder / "tiny.py").write_text(text.replace("sample_every=4", "sample_every=100"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        arguments = ("--config", str(folder / "tiny.py"), "--workdir", str(folder / "run"))
        assert main(["train", *arguments]) == 0
    return folder / "run"


def test_evaluate_prints_and_writes_its_report(trained, call, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    code, printed, _ = call("evaluate", "--workdir", workdir, "--step", "4")
    assert code == 0
    report = json.loads((workdir / "evaluation.json").read_text())
    for name in ("agreement", "frechet", "frechet_halves", "precision", "recall", "bits_per_dim"):
        assert name in printed
        assert np.isfinite(report[name])
    assert "training data, uniformly dequantized" in report["bits_per_dim_of"]
    assert (report["evaluations"], report["step"], report["data"]) == (4, 4, 1797)
    assert report["left_out"] == {}


def test_two_classes_with_a_gap_are_evaluated_in_the_proportions_of_the_data(
    two_classes, call, monkeypatch
):
    asked = []
    monkeypatch.setattr(draw, "draw", spied(draw.draw, asked))
    code, _, err = call("evaluate", "--workdir", two_classes)
    assert code == 0, err
    report = json.loads((two_classes / "evaluation.json").read_text())
    assert {"agreement", "frechet_ratio", "precision"} <= report.keys()
    assert np.bincount(asked[-1]).tolist() == [36, 0, 4]


def spied(function, asked):
    def call(*args, **kwargs):
        asked.append(kwargs["under"].cond)
        return function(*args, **kwargs)

    return call


def test_what_cannot_be_had_is_told_before_the_sampling_and_left_out(
    two_classes, call, monkeypatch, tmp_path
):
    workdir = shutil.copytree(two_classes, tmp_path / "run")
    # Three images of one class, which are all equal.
    same = np.full((3, 8, 8, 1), 7, np.uint8)
    np.savez(tmp_path / "same.npz", image=same, label=np.array([0, 2, 0]))
    path = f"--config.data.source.path={tmp_path / 'same.npz'}"
    code, printed, err = call("evaluate", "--workdir", workdir, path)
    assert code == 0, err
    before, after = printed.split("step ", 1)
    assert "precision is left out: needs more than 3 samples and data" in before
    assert "left out: all data are equal" in after
    text = (workdir / "evaluation.json").read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in {text}"))
    assert report["left_out"].keys() >= {"agreement", "frechet_ratio", "nearest_neighbour_ratio"}
    assert report["bits_per_dim"] > 0


def test_bits_per_dim_are_those_of_a_gaussian_in_closed_form(trained, monkeypatch):
    # With the model of data N(0, s^2 I) the density of x at t_min is that of N(0, s^2 + t_min^2).
    overrides = {"sde.name": "edm", "sde.t_min": "0.02", "eval.bits": "500"}
    config, std = run.read_config(trained, overrides), 0.7
    source = build.source(config)
    exact = Gaussian.of(jnp.zeros(64), jnp.array(std**2))

    def predict(x, t, y):
        return exact.denoise(EDM(), x.reshape(len(x), 64), t).reshape(x.shape)

    monkeypatch.setattr(build, "model", lambda *_: from_x0(build.sde(config), predict))
    real = data.take(source, np.arange(len(source)))
    told = evaluate.bits_of(config, None, real, source.features, seed=0).figures
    # A bin of the 17 is 2 / 17 wide in [-1, 1], and a value's noise fills it.
    variance = std**2 + 0.02**2
    x = (np.asarray(real["image"], float) + 0.5) * 2 / 17 - 1
    squares = np.mean(x**2) + (2 / 17) ** 2 / 12
    nats = 0.5 * np.log(2 * np.pi * variance) + 0.5 * squares / variance - np.log(2 / 17)
    assert told["bits_per_dim"] == pytest.approx(nats / np.log(2), abs=0.02)


def test_samples_are_drawn_without_the_data(two_classes, call, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("the data were read"))
    out = tmp_path / "grid.png"
    assert call("sample", "--workdir", two_classes, "--num", 6, "--out", out)[0] == 0
    width, height = Image.open(out).size
    assert height - picture.GAP == pytest.approx(3 / 2 * (width - picture.GAP))  # 3 rows of 2


def test_a_class_without_data_is_not_drawn(two_classes, call, tmp_path):
    out = tmp_path / "x.npz"
    assert call("sample", "--workdir", two_classes, "--num", 5, "--out", out)[0] == 0
    assert np.load(out)["label"].tolist() == [0, 2, 0, 2, 0]
    code, _, err = call("sample", "--workdir", two_classes, "--class", "1", "--out", out)
    assert code == 2
    assert "--class 1: the data have no record of this class" in err


class TestSamplesThatAreNotFinite:
    """The model is NaN for sample 3 from the second of three steps on."""

    @pytest.fixture(autouse=True)
    def broken(self, monkeypatch, trained):
        config = run.read_config(trained, {})
        late = float(build.grid(config)[1])

        def predict(x, t, y):
            bad = (y == 3)[:, None, None, None] & (t <= late + 1e-6)[:, None, None, None]
            return jnp.where(bad, jnp.nan, 0.0 * x)

        monkeypatch.setattr(build, "model", lambda *_: from_x0(build.sde(config), predict))

    @pytest.mark.parametrize("suffix", ["npz", "png"])
    def test_are_not_written(self, call, trained, tmp_path, suffix):
        out = tmp_path / f"x.{suffix}"
        code, _, err = call("sample", "--workdir", trained, "--num", 25, "--out", out)
        assert code == 3
        assert (
            "error: 3 of 25 samples are not finite, the first of them sample 3, which ceases to be "
            "at step 2 of 3"
        ) in err
        assert not out.exists()

    def test_are_not_evaluated(self, call, trained):
        before = sorted(path.name for path in trained.iterdir())
        code, _, err = call("evaluate", "--workdir", trained)
        assert code == 3
        assert "2 of 20 samples are not finite" in err  # of the first batch
        assert sorted(path.name for path in trained.iterdir()) == before
