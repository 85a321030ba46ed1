"""Bad input: one clear line on standard error, exit code 2 (3 for a loss), and nothing lost."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sde_diffusion import training
from sde_diffusion.config import build


def tree(folder):
    """Every file in a folder with its content."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_one_line(result, *words, code=2):
    exit_code, _, err = result
    lines = [line for line in err.splitlines() if line.startswith("sde-diffusion: error: ")]
    assert exit_code == code, err
    assert len(lines) == 1, err
    for word in words:
        assert word in lines[0], lines[0]


class TestConfig:
    def test_an_unknown_field_names_the_nearest(self, call, tiny, tmp_path):
        result = call(
            "train", "--config", tiny, "--workdir", tmp_path / "w", "--config.optim.lrr=1"
        )
        assert_one_line(result, "optim.lrr", "did you mean 'optim.lr'")
        assert not (tmp_path / "w").exists()

    def test_an_unknown_field_in_the_file_names_the_nearest(self, call, tiny, tmp_path):
        tiny.write_text(tiny.read_text().replace("config.eval.num", "config.eval.nun"))
        result = call("train", "--config", tiny, "--workdir", tmp_path / "w")
        assert_one_line(result, "tiny.py", "'nun'", "did you mean 'num'")

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("sde.name=vpp", ("sde.name", "did you mean 'vp'")),
            ("network.name=unet", ("network.name", "ncsnpp")),
            ("optim.name=adan", ("'adan'", "did you mean 'adam'")),
            ("optim.lr=-1.0", ("lr", "-1.0")),
            ("optim.lr=fast", ("optim.lr", "float", "'fast'")),
            ("optim.ema_rates=abc", ("optim.ema_rates", "tuple", "'abc'")),
            ("loss.name=score", ("loss.name", "denoising")),
            ("loss.draw=random", ("loss.draw", "stratified")),
            ("loss.reduction=sum", ("loss.reduction", "half_sum")),
            ("training.steps=0", ("steps: 0", "at least 1")),
            ("training.compiler_options=xla_fast", ("compiler_options", "name=value")),
            ("training.compiler_options=xla_fast=1", ("compiler_options", "'xla_fast'", "cpu")),
            ("training.batch_size=5000", ("digits", "1797", "5000")),
            ("sampling.solver.name=dpm", ("sampling.solver.name", "dpmpp_2m")),
            ("sampling.grid.name=log", ("sampling.grid.name", "log_snr")),
            ("sampling.t_min=1e-4", ("config.sampling.t_min", "0.001", "0.0001")),
            ("sampling.t_min=late", ("config.sampling.t_min", "0.001", "'late'")),
            ("network.num_classes=7", ("num_classes", "7", "10")),
            ("sde.beta_min=-1.0", ("beta_min=-1.0",)),
            ("optim.accumulate=3", ("optim.accumulate is 3", "batch_size 32")),
            ("training.keep=0", ("keep: 0", "at least 1")),
            ("seed=18446744073709551616", ("seed", "2^64 - 1")),
            ("seed=-1", ("seed", "-1")),
            ("optim.clip_norm=1e999", ("config.optim.clip_norm is inf",)),
            ("init_from.path=nowhere", ("nowhere", "no checkpoint")),
            ("init_from.path=nowhere.safetensors", ("nowhere.safetensors", "no such file")),
        ],
    )
    def test_an_unknown_value_lists_the_choices(self, call, tiny, tmp_path, override, words):
        result = call(
            "train", "--config", tiny, "--workdir", tmp_path / "w", f"--config.{override}"
        )
        assert_one_line(result, *words)
        assert not (tmp_path / "w").exists()

    def test_a_flip_of_what_has_no_width_does_not_claim_the_folder(self, call, tiny, tmp_path):
        train = ("train", "--config", tiny, "--workdir", tmp_path / "w")
        points = ("--config.data.source.name=mixture2d", "--config.network.num_classes=25")
        result = call(*train, *points, "--config.data.flip=true")
        assert_one_line(result, "config.data.flip is for images [H, W, C]", "(2,)")
        assert not (tmp_path / "w").exists()

    def test_a_missing_file(self, call, tmp_path):
        result = call("train", "--config", tmp_path / "none.py", "--workdir", tmp_path / "w")
        assert_one_line(result, "none.py", "does not exist")

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("1 / 0", "division by zero"),
            ("raise SystemExit('set DATA first')", "set DATA first"),
            ("def get_config(:", "invalid syntax"),
            ("x = 1", "does not define get_config"),
            ("def get_config():\n    return 3", "ConfigDict"),
        ],
    )
    def test_a_file_that_fails(self, call, tmp_path, text, word):
        (tmp_path / "bad.py").write_text(text)
        result = call("train", "--config", tmp_path / "bad.py", "--workdir", tmp_path / "w")
        assert_one_line(result, "bad.py", word)

    def test_an_unknown_argument(self, call, tiny, tmp_path):
        result = call("train", "--config", tiny, "--workdir", tmp_path / "w", "--batch", "3")
        assert_one_line(result, "--batch")


class TestData:
    def folder(self, call, tiny, tmp_path):
        source = f'choice("data.source", "folder", path="{tmp_path / "images"}")'
        text = tiny.read_text().replace('choice("data.source", "digits")', source)
        tiny.write_text(text.replace(", num_classes=10", ""))
        return call("train", "--config", tiny, "--workdir", tmp_path / "w")

    def save(self, path, size=(8, 8)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)

    def test_an_empty_folder(self, call, tiny, tmp_path):
        (tmp_path / "images").mkdir()
        assert_one_line(self.folder(call, tiny, tmp_path), str(tmp_path / "images"))

    def test_an_unreadable_image_is_named(self, call, tiny, tmp_path):
        self.save(tmp_path / "images" / "good.png")
        (tmp_path / "images" / "torn.png").write_bytes(b"not an image")
        assert_one_line(self.folder(call, tiny, tmp_path), "torn.png")

    def test_images_of_several_sizes(self, call, tiny, tmp_path):
        self.save(tmp_path / "images" / "a.png")
        self.save(tmp_path / "images" / "b.png", (8, 9))
        assert_one_line(self.folder(call, tiny, tmp_path), "a.png", "b.png")

    def test_fewer_samples_than_a_batch(self, call, tiny, tmp_path):
        self.save(tmp_path / "images" / "a.png")
        assert_one_line(self.folder(call, tiny, tmp_path), "1 samples", "32")


class TestSample:
    def sample(self, call, workdir, *options, out="x.npz"):
        return call("sample", "--workdir", workdir, "--out", Path(workdir).parent / out, *options)

    def test_an_unknown_solver(self, call, trained):
        result = self.sample(call, trained, "--solver", "huen")
        assert_one_line(result, "'huen'", "did you mean 'heun'")

    @pytest.mark.parametrize(
        ("solver", "said"),
        [
            ("ddim(etta=1)", "did you mean 'sampling.solver.eta'"),
            ("ddim(eta=", "name(field=value"),
            ("f(open('x'))", "name("),
        ],
    )
    def test_a_solver_that_is_not_one(self, call, trained, solver, said):
        assert_one_line(self.sample(call, trained, "--solver", solver), said)

    def test_a_grid_that_is_not_one(self, call, trained):
        assert_one_line(self.sample(call, trained, "--grid", "karras(rh=3)"), "sampling.grid.rho")
        assert_one_line(self.sample(call, trained, "--grid", "karras(3"), "a grid is written as")

    def test_no_steps(self, call, trained):
        assert_one_line(self.sample(call, trained, "--steps", "0"), "--steps", "at least 1, got 0")

    def test_no_samples(self, call, trained):
        assert_one_line(self.sample(call, trained, "--num", "0"), "--num")

    def test_a_class_that_does_not_exist(self, call, trained):
        assert_one_line(self.sample(call, trained, "--class", "10"), "--class", "8, 9", "'10'")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--step", "5"), ("no checkpoint of step 5", "4, 8")),
            (("--step", "last"), ("--step", "best", "'last'")),
            (("--ema", "1"), ("--ema", "none, 0 (rate 0.9)", "'1'")),
            (("--seed", "-1"), ("seed", "-1")),
        ],
    )
    def test_a_checkpoint_or_an_average_that_is_not_there(self, call, trained, options, words):
        assert_one_line(self.sample(call, trained, *options), *words)

    def test_a_run_of_a_version_that_did_not_describe_its_data(self, call, trained, tmp_path):
        shutil.copytree(trained, tmp_path / "run")
        (tmp_path / "run" / "data.json").unlink()
        assert_one_line(self.sample(call, tmp_path / "run"), "data.json", "train, once more")
        (tmp_path / "run" / "data.json").write_text("[]")
        assert_one_line(self.sample(call, tmp_path / "run"), "does not describe data")

    def test_an_output_of_another_kind(self, call, trained):
        assert_one_line(self.sample(call, trained, out="x.jpg"), ".png or .npz", "x.jpg")

    def test_a_folder_without_a_run(self, call, tmp_path):
        assert_one_line(self.sample(call, tmp_path / "none"), str(tmp_path / "none"))

    def test_a_run_without_a_checkpoint(self, call, trained, tmp_path):
        shutil.copytree(trained, tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / "checkpoints")
        assert_one_line(self.sample(call, tmp_path / "run"), "checkpoint", str(tmp_path / "run"))

    def test_a_truncated_checkpoint_falls_back_to_the_one_before(self, call, trained, tmp_path):
        shutil.copytree(trained, tmp_path / "run")
        newest = tmp_path / "run" / "checkpoints" / "8"
        for path in newest.rglob("*"):
            if path.is_file() and path.stat().st_size > 100:
                path.write_bytes(path.read_bytes()[:50])
        code, out, err = self.sample(call, tmp_path / "run", "--num", "2")
        assert code == 0, err
        assert "of step 4" in out
        assert "8" in err  # it says which one was damaged


class TestWorkdir:
    def test_of_another_config_names_what_differs(self, call, tiny, trained):
        before = tree(trained)
        result = call("train", "--config", tiny, "--workdir", trained, "--config.optim.lr=0.5")
        assert_one_line(result, "optim.lr", "0.5", "0.001", "--overwrite")
        assert tree(trained) == before

    def test_overwrite_starts_anew(self, call, tiny, trained, tmp_path):
        shutil.copytree(trained, tmp_path / "run")
        (tmp_path / "run" / "notes.txt").write_text("mine")
        options = ("--config.training.steps=4", "--overwrite")
        code, _, _ = call("train", "--config", tiny, "--workdir", tmp_path / "run", *options)
        assert code == 0
        assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["4"]
        assert (tmp_path / "run" / "notes.txt").read_text() == "mine"

    def test_overwrite_with_a_bad_config_removes_nothing(self, call, tiny, trained):
        before = tree(trained)
        options = ("--overwrite", "--config.optim.lr=-1.0")
        assert_one_line(call("train", "--config", tiny, "--workdir", trained, *options), "lr")
        assert tree(trained) == before


def test_a_record_that_is_not_finite_is_named(call, tiny, tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    x[17, 1] = np.nan
    np.savez(tmp_path / "x.npz", x=x)
    source = f'choice("data.source", "npz", path="{tmp_path / "x.npz"}", low=-3.0, high=3.0)'
    text = tiny.read_text().replace('choice("data.source", "digits")', source)
    tiny.write_text(text.replace(", num_classes=10", ""))
    result = call("train", "--config", tiny, "--workdir", tmp_path / "w")
    assert_one_line(result, "record 17 has a nan in x")


def test_ctrl_c_is_one_line(call, tiny, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "source", interrupted)
    code, _, err = call("train", "--config", tiny, "--workdir", tmp_path / "w")
    assert code == 130
    assert err.splitlines() == ["sde-diffusion: interrupted"]


def test_a_full_disk(call, tiny, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "w"))

    monkeypatch.setattr(training, "train", full)
    result = call("train", "--config", tiny, "--workdir", tmp_path / "w")
    assert_one_line(result, "No space left on device", str(tmp_path / "w"))


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_good_checkpoint(
    call, tiny, tmp_path
):
    # A rate that grows out of all bounds within a few steps.
    options = ("--config.optim.lr=1e38", "--config.optim.warmup=6", "--config.optim.clip_norm=None")
    more = ("--config.training.checkpoint_every=1", "--config.training.steps=40")
    result = call("train", "--config", tiny, "--workdir", tmp_path / "w", *options, *more)
    assert_one_line(result, "step", "loss is", code=3)
    kept = [int(p.name) for p in (tmp_path / "w" / "checkpoints").iterdir()]
    step = int(result[2].split("error: step ")[1].split(":")[0])
    assert max(kept) == step - 1
