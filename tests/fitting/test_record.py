"""The file of a fitted solver: what is written comes back, and nothing else is believed."""

import json

import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import fitting, samplers

SDE = sd.VP()
TIMES = (1.0, 0.4, 1e-3)
SOLVERS = [
    samplers.Fitted(TIMES, (0.5, 0.1), ((0.25,), (-1.5, 2.0))),
    samplers.FittedGrid(samplers.DEIS(order=2), TIMES),
]


def result(solver):
    return fitting.Fit(solver, 2, 0.01, "ddim on uniform", 0.1, 3.0)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "solver.json"
    fitting.save(path, result(SOLVERS[0]), SDE, "problem mixture2d")
    return path


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_what_was_saved_comes_back(solver, tmp_path):
    path = tmp_path / "new" / "solver.json"
    fitting.save(path, result(solver), SDE, "problem mixture2d")
    assert fitting.load(path, SDE) == solver


def test_it_says_what_it_is(saved):
    record = json.loads(saved.read_text())
    assert record["sde"] == {
        "kind": "VP",
        "t_max": 1.0,
        "t_min": 1e-3,
        "beta_min": 0.1,
        "beta_max": 20.0,
    }
    assert record["fitted_on"] == "problem mixture2d"
    assert record["rms_error"] == {"start": "ddim on uniform", "of_start": 0.1, "fitted": 0.01}
    assert record["nfe"] == 2


def test_a_table_is_known_by_its_values(tmp_path):
    path, table = tmp_path / "solver.json", sd.sdes.tabulated()
    fitting.save(path, result(SOLVERS[0]), table, "problem mixture2d")
    same = sd.Tabulated.from_betas(np.linspace(1e-4, 0.02, 1000))
    assert fitting.load(path, same) == SOLVERS[0]
    with pytest.raises(ValueError, match=r"it was fitted for the SDE .*Tabulated"):
        fitting.load(path, sd.sdes.tabulated("scaled_linear"))


@pytest.mark.parametrize("sde", [sd.EDM(), sd.VP(beta_max=10.0)])
def test_another_sde_is_refused(saved, sde):
    with pytest.raises(ValueError, match=r"solver\.json: it was fitted for the SDE .*VP"):
        fitting.load(saved, sde)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "zip"}, "'format' must be"),
        ({"version": 2}, "'version' must be 1"),
        ({"times": [1.0, "x", 0.1]}, "'times' must be two numbers or more"),
        ({"times": [1.0, 0.1, 0.4]}, "'times' must be decreasing"),
        ({"times": [1.0, float("nan"), 0.1]}, "'times' must be two numbers"),
        ({"solver": [1]}, "'solver' must be an object"),
        ({"solver": {"a": [0.5], "c": [[1.0], [1.0, 2.0]]}}, "'solver.a' must be 2 numbers"),
        ({"solver": {"a": [0.5, 0.1], "c": [[1.0], [1.0]]}}, "'solver.c' must be rows"),
        ({"solver": {"name": "dpm_9", "fields": {}}}, "unknown solver 'dpm_9'"),
        ({"solver": {"name": "deis", "fields": {"p": 3}}}, "unknown field of solver 'deis' 'p'"),
        ({"solver": {"name": "deis"}}, "'solver.fields' must be an object"),
    ],
)
def test_a_file_that_is_wrong_names_the_field(saved, change, message):
    saved.write_text(json.dumps(json.loads(saved.read_text()) | change))
    with pytest.raises(ValueError, match=message) as raised:
        fitting.load(saved, SDE)
    assert "solver.json" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("field", ["times", "solver", "sde", "nfe"])
def test_a_missing_field_is_named(saved, field):
    record = json.loads(saved.read_text())
    del record[field]
    saved.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"field '{field}'"):
        fitting.load(saved, SDE)


def test_text_that_is_no_json_and_a_file_that_is_not_there(saved):
    saved.write_text("{")
    with pytest.raises(ValueError, match=r"solver\.json is not JSON"):
        fitting.load(saved, SDE)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        fitting.load(saved.with_name("none.json"), SDE)
