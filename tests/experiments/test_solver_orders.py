"""docs/solvers.md: what is not measured in it is what the generator reads off the solvers now."""

import dataclasses
import re
from pathlib import Path

import jax.numpy as jnp
import orders
import pytest
import table

from sde_diffusion import samplers

WRITTEN = Path(__file__).parents[2] / "docs" / "solvers.md"


def without_measurements(text):
    return re.sub(r"\b\d\.\d\d( to \d\.\d\d)?(?= \|)", "measured", text)


@pytest.mark.slow
def test_the_written_table_is_that_of_the_solvers(monkeypatch):
    for measure in ("global_order", "weak_order", "strong_order"):
        monkeypatch.setattr(orders, measure, lambda solver, sde: 1.0)
    made = table.document(["vp", "ve", "flow"])
    assert without_measurements(made) == without_measurements(WRITTEN.read_text())


@pytest.mark.parametrize(
    ("solver", "drawn"),
    [
        (samplers.DDIM(), "nothing"),
        (samplers.DDIM(eta=1.0), "1 Gaussian"),
        (samplers.SEEDS3(), "3 Gaussians"),
        (samplers.AnnealedLangevin(steps=2), "2 Gaussians"),
        (samplers.IPNDM(), "eps of 3 steps before"),
        (samplers.UniPC(p=1), "x0 of 1 step before"),
        (samplers.UniPC(p=2, corrector=False), "x0 of 1 step before"),
        (samplers.SASolver(p=2), "1 Gaussian, x0 of 2 steps before"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_a_solver_draws_on_is_what_its_steps_take(solver, drawn):
    assert table.draws_on(solver) == drawn


def test_a_step_that_is_not_finite_excludes_an_sde():
    @dataclasses.dataclass(frozen=True)
    class Broken(samplers.DDIM):
        def step(self, key, model, state, t, s, cond=None):
            state = super().step(key, model, state, t, s)
            log_snr = model.sde.log_snr(t)
            return state._replace(x=state.x * (log_snr / jnp.abs(log_snr)))

    assert table.excluded(samplers.DDIM()) == "all"
    assert table.excluded(samplers.EulerMaruyama()) == "not flow from t_max"
    assert table.excluded(Broken()) == "not flow from t_max"


def test_a_source_may_be_of_any_century():
    assert table.source(samplers.Midpoint()) == "Runge 1895"
