"""The README: its example runs, and its tables hold what there is."""

import contextlib
import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest

import sde_diffusion
from sde_diffusion import networks, objectives, parameterization, samplers, sdes
from sde_diffusion.data import SOURCES

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLE, SOLVER = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_learns_and_samples_its_data():
    printed = io.StringIO()
    names = {"__name__": "readme"}
    with contextlib.redirect_stdout(printed):
        exec(compile(EXAMPLE, "README.md", "exec"), names)
    x = np.asarray(names["samples"].x)
    np.testing.assert_allclose(x.mean(axis=0), [1.0, -1.0], atol=0.1)
    np.testing.assert_allclose(x.std(axis=0), 0.2, atol=0.1)
    assert "21" in printed.getvalue()  # 20 steps and the evaluation that denoises


def test_the_example_of_a_solver_is_the_librarys_own():
    names = {"__name__": "readme", "dataclasses": dataclasses, "sd": sde_diffusion}
    exec(compile(SOLVER, "README.md", "exec"), names)
    assert names["Euler"]().order == samplers.Euler.order


@pytest.mark.parametrize("name", [*samplers.SOLVERS, *samplers.CORRECTORS])
def test_the_table_of_solvers_has_every_one_with_its_order(name):
    row = re.search(rf"^\| `{name}` \| (\S+) \|", README, re.MULTILINE)
    assert row, f"{name} is not in the README's table"
    solver = (samplers.SOLVERS | samplers.CORRECTORS)[name]()
    assert row[1] == str(solver.order)


@pytest.mark.parametrize(
    "table",
    [
        [type(kind()).__name__ for kind in sdes.KINDS.values()],
        objectives.WEIGHTINGS,
        objectives.time_density.TIMES,
        [network.__name__ for network in networks.NETWORKS.values()],
        parameterization.PARAMETERIZATIONS,
        SOURCES,
    ],
)
def test_every_name_that_can_be_chosen_is_told(table):
    for name in table:
        assert re.search(rf"`{name}[`(.]", README) or name == "tfds", name
