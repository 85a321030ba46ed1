"""experiments/compare_solvers/diffusers_schedulers.py: our solvers on the times of diffusers'."""

import jax
import pytest
import standard

pytest.importorskip("diffusers", reason="diffusers is in the extra `bench`")
pytestmark = pytest.mark.filterwarnings("ignore:__array_")


@pytest.mark.slow
@pytest.mark.parametrize("sde", ["vp", "edm"])
def test_our_solver_of_the_same_name_errs_at_most_as_much(sde, monkeypatch):
    import diffusers_schedulers

    monkeypatch.setattr(standard, "SOLVERS", "ddim")
    monkeypatch.setattr(standard, "GRIDS", ("log_snr",))
    monkeypatch.setattr(diffusers_schedulers, "BUDGETS", (5,))
    with jax.enable_x64(True):
        pairs, best = diffusers_schedulers.study("mixture2d", sde, 32)
    assert {pair["scheduler"] for pair in pairs} > {
        "dpmpp_2m",
        "dpmpp_3m",
        "unipc_3",
        "deis_3",
        "heun",
    }
    assert max(pair["ratio"] for pair in pairs) <= 1.02
    # five evaluations are better spent on five steps than on four and a last one that denoises
    assert best[0]["our"] == "ddim, log_snr, not denoised"
