"""fit, and sampling by the solver that it leaves."""

import json
from pathlib import Path

import numpy as np
import pytest

from sde_diffusion.cli import fit as command


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    sizes = {"held_out": 32, "fine_steps": 8, "jacobian": 32, "batch": 32}
    for of in (command.CHEAP, command.DEAR):
        monkeypatch.setitem(of, "num", 32)
        monkeypatch.setitem(of, "fit", sizes)


def assert_one_line(result, *words):
    code, _, err = result
    lines = [line for line in err.splitlines() if line.startswith("sde-diffusion: error: ")]
    assert code == 2, err
    assert len(lines) == 1, err
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture
def fitted(trained, call, tmp_path):
    out = tmp_path / "new" / "solver_3.json"
    result = call(
        "fit", "--workdir", trained, "--solver", "ddim", "--nfe", 3, "--seconds", 5, "--out", out
    )
    assert result[0] == 0, result[2]
    return out, result


def test_a_fitted_solver_is_found_described_and_sampled_by(fitted, trained, call, tmp_path):
    solver, (_, printed, err) = fitted
    assert "RMS error of 3 evaluations, on starts held out" in printed
    assert "fitting" in err  # the progress bar
    record = json.loads(solver.read_text())
    assert record["fitted_on"] == f"{trained} at step 8"
    assert record["rms_error"]["fitted"] <= record["rms_error"]["of_start"]
    out = tmp_path / "x.npz"
    code, printed, err = call(
        "sample", "--workdir", trained, "--solver", solver, "--num", 5, "--out", out
    )
    assert code == 0, err
    assert "by fitted, 3 evaluations each" in printed
    assert np.load(out)["image"].shape == (5, 8, 8, 1)
    result = call("sample", "--workdir", trained, "--solver", solver, "--steps", 4, "--out", out)
    assert_one_line(result, "brings its own grid", "--steps")
    result = call(
        *("sample", "--workdir", trained, "--solver", solver, "--out", out),
        "--config.sde.beta_max=10.0",
    )
    assert_one_line(result, "solver_3.json", "fitted for the SDE", "10.0")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--nfe", 1, "--out", "s.json"), ("--nfe", "at least 2, got 1")),
        (("--nfe", 4, "--out", "s.npz"), (".json", "s.npz")),
        (("--nfe", 4, "--out", "s.json", "--seconds", 0), ("--seconds", "0")),
        (("--nfe", 4, "--out", "s.json", "--seconds", "nan"), ("--seconds", "nan")),
        (("--nfe", 4, "--out", "s.json", "--num", 0), ("--num", "0")),
        (("--nfe", 4, "--out", "s.json", "--sde", "vpp"), ("'vpp'", "did you mean 'vp'")),
        (("--nfe", 4, "--out", "s.json", "--solver", "dim"), ("'dim'", "did you mean 'ddim'")),
        (("--nfe", 4, "--out", "s.json", "--solver", "ddim(eta=1)"), ("deterministic",)),
        (("--nfe", 4, "--out", "s.json", "--solver", "ancestral"), ("deterministic",)),
    ],
)
def test_bad_options(call, options, words):
    assert_one_line(call("fit", "--problem", "mixture2d", *options), *words)


def test_a_problem_and_a_folder_that_do_not_exist(call, tmp_path):
    options = ("--nfe", 4, "--out", tmp_path / "s.json")
    assert_one_line(call("fit", "--problem", "mixture2", *options), "did you mean 'mixture2d'")
    assert_one_line(call("fit", "--workdir", tmp_path / "none", *options), str(tmp_path / "none"))


@pytest.mark.parametrize("text", [None, "{", '{"format": 1}'])
def test_sampling_by_a_file_that_is_missing_or_broken(trained, call, tmp_path, text):
    path = Path(tmp_path / "bad.json")
    if text is not None:
        path.write_text(text)
    result = call("sample", "--workdir", trained, "--solver", path, "--out", tmp_path / "x.npz")
    assert_one_line(result, "bad.json")
