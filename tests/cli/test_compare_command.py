"""sde-diffusion compare: what it prints and leaves, and how it refuses."""

import json

import jax
import numpy as np
import pytest

from sde_diffusion.cli import run
from sde_diffusion.cli.trained import trained_problem
from sde_diffusion.config import build


def test_prints_a_table_and_leaves_a_report(call, tmp_path):
    code, out, err = call(
        "compare", "--problem", "gaussian", "--solvers", "ddim,heun", "--nfe", "5",
        "--metrics", "sliced_wasserstein", "--num", "128", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    assert "heun" in out
    assert "floor" in out
    assert (tmp_path / "out" / "report.html").is_file()


def test_compares_on_a_trained_network(call, trained, tmp_path):
    code, _, err = call(
        "compare", "--workdir", trained, "--solvers", "ddim", "--nfe", "3", "--grids", "karras",
        "--metrics", "mean_error", "--num", "64", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert row["nfe"] == 3
    assert row["problem"].endswith("at step 8")


def test_solvers_of_a_run_stop_where_its_sampling_does(trained):
    overrides = {"sampling.t_min": "0.25"}
    config = run.read_config(run.folder(str(trained)), overrides)
    assert trained_problem(run.folder(str(trained)), overrides).t_min == 0.25
    assert float(build.grid(config)[-1]) == pytest.approx(0.25)
    assert build.sde(config).t_min == 1e-3  # of training and of likelihoods


def test_the_data_of_a_run_come_in_the_order_of_the_draw(trained):
    problem = trained_problem(run.folder(str(trained)), {})
    source = build.source(run.read_config(run.folder(str(trained)), {}))
    key = jax.random.key(3)
    rows = np.asarray(jax.random.choice(key, len(source), (50,), replace=False))
    made = np.asarray(problem.data(key, 50)).reshape(50, -1)
    whole = np.asarray(source.arrays["image"], float).reshape(len(source), -1)
    for place in (0, 7, 49):
        alike = [np.corrcoef(made[place], whole[row])[0, 1] for row in rows]
        assert np.argmax(alike) == place


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--problem", "mixture3d"], ("'mixture3d'", "did you mean 'mixture2d'")),
        (["--problem", "gaussian", "--solvers", "hen"], ("'hen'", "did you mean 'heun'")),
        (["--problem", "gaussian", "--metrics", "w2"], ("unknown metric 'w2'", "wasserstein2")),
        (["--problem", "gaussian", "--grids", "logsnr"], ("'logsnr'", "did you mean 'log_snr'")),
        (["--problem", "gaussian", "--sde", "cosin"], ("'cosin'", "did you mean 'cosine'")),
        (["--problem", "gaussian", "--nfe", "5,x"], ("--nfe", "'5,x'")),
        (["--problem", "gaussian", "--solvers", "heun", "--nfe", "2"], ("at least 3", "got 2")),
        (
            ["--problem", "gaussian", "--denoise-last", "no"],
            ("--denoise-last", "true,false; got 'no'"),
        ),
        (["--problem", "gaussian", "--num", "3"], ("--num", "at least 64")),
        (
            ["--problem", "gaussian", "--workdir", "x"],
            ("one of --problem, --workdir and --pretrained",),
        ),
        (["--workdir", "nowhere"], ("nowhere", "holds no run")),
        (["--workdir", "nowhere", "--sde", "vp"], ("--sde", "--problem")),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(call, tmp_path, options, words):
    code, _, err = call("compare", "--out", tmp_path / "out", *options)
    (line,) = [line for line in err.splitlines() if "error: " in line]
    assert code == 2
    for word in words:
        assert word in line
    assert not (tmp_path / "out").exists()
