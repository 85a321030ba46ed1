"""compare() with every solver."""

import pytest

from sde_diffusion import samplers
from sde_diffusion.comparison import compare


@pytest.mark.slow
def test_all_is_every_solver_and_each_gives_finite_samples():
    rows = compare("gaussian", "all", (6,), num=64, metrics=["mean_error"])
    assert {r["solver"].partition("[")[0] for r in rows} == set(samplers.SOLVERS)
    assert all(r["finite"] == 1.0 for r in rows)
    assert all(r["nfe"] <= 6 for r in rows if r["budget"] is not None)
