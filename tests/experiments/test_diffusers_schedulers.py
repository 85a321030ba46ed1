"""experiments/compare_solvers/diffusers_schedulers.py: our solvers on the times of diffusers'."""

import runpy
from pathlib import Path

import jax
import pytest

pytest.importorskip("diffusers", reason="diffusers is in the extra `bench`")
pytestmark = pytest.mark.filterwarnings("ignore:__array_")
SCRIPT = Path(__file__).parents[2] / "experiments" / "compare_solvers" / "diffusers_schedulers.py"


@pytest.mark.slow
@pytest.mark.parametrize("sde", ["vp", "edm"])
def test_our_solver_of_the_same_name_errs_at_most_as_much(sde, monkeypatch):
    study = runpy.run_path(str(SCRIPT))["study"]
    for name, value in {"BUDGETS": (5,), "STANDARD": ("ddim",), "GRIDS": ("log_snr",)}.items():
        monkeypatch.setitem(study.__globals__, name, value)
    with jax.enable_x64(True):
        pairs, best = study("mixture2d", sde, 32)
    assert {pair["scheduler"] for pair in pairs} > {
        "dpmpp_2m",
        "dpmpp_3m",
        "unipc_3",
        "deis_3",
        "heun",
    }
    assert max(pair["ratio"] for pair in pairs) <= 1.02
    assert best[0]["our"] == "ddim, log_snr"
