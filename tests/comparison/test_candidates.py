"""What is compared: solvers by name, and the steps that a budget of evaluations allows."""

import dataclasses
import logging
import re

import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import notation, samplers
from sde_diffusion.comparison import candidates as made
from sde_diffusion.comparison.candidates import candidates


def steps(text, nfe=(10,), sde=None, grid_names=("log_snr",)):
    return [c.steps for c in made.candidates(text, nfe, grid_names, sde or sd.VP())]


def test_a_solver_is_a_name_with_or_without_fields():
    assert made.parse("heun", sd.VP()) == ("heun", samplers.Heun())
    assert made.parse("ddim(eta=0.5)", sd.VP()) == ("ddim(eta=0.5)", samplers.DDIM(eta=0.5))
    assert made.parse("unipc(p=2, variant='bh1')", sd.VP())[1] == samplers.UniPC(p=2, variant="bh1")


@pytest.mark.parametrize("text", ["ddim(0.5)", "ddim(eta=", "a.b()", "ddim(eta=open('x'))", "1"])
def test_what_is_not_a_solver_is_not_executed(text):
    with pytest.raises(ValueError, match="a solver is written as name or name"):
        made.parse(text, sd.VP())


def test_commas_inside_parentheses_belong_to_a_solver():
    assert notation.split("heun, unipc(p=2,variant='bh1'),ddim") == [
        "heun",
        "unipc(p=2,variant='bh1')",
        "ddim",
    ]


@pytest.mark.parametrize(("solver", "expected"), [("ddim", 9), ("heun", 4), ("rk4", 2)])
def test_a_budget_pays_for_the_steps_and_the_last_evaluation(solver, expected):
    assert steps(solver, nfe=(10,)) == [expected]


def test_without_a_last_evaluation_that_denoises_a_budget_pays_for_more_steps():
    both = made.candidates("ddim,heun", (10,), ("log_snr",), sd.VP(), denoise_last=(True, False))
    assert [(c.label, c.denoise_last, c.steps) for c in both] == [
        ("ddim", True, 9),
        ("ddim", False, 10),
        ("heun", True, 4),
        ("heun", False, 5),
    ]


def test_a_solver_that_denoises_by_itself_is_the_same_either_way():
    @dataclasses.dataclass(frozen=True)
    class Own(samplers.DDIM):
        denoises = True

    (only,) = made.candidates([Own()], (5,), ("log_snr",), sd.VP(), denoise_last=(True, False))
    assert (only.steps, only.denoise_last) == (5, True)


def test_no_use_of_the_last_evaluation_is_told():
    with pytest.raises(ValueError, match="denoise_last: none is given"):
        made.candidates("ddim", (5,), ("log_snr",), sd.VP(), denoise_last=())


def test_a_budget_too_small_says_the_least_that_a_solver_needs():
    with pytest.raises(ValueError, match=r"'rk4' needs nfe of at least 5.*got 4"):
        steps("rk4", nfe=(4,))
    with pytest.raises(ValueError, match=r"'rk4' needs nfe of at least 4, a step, got 3"):
        made.candidates("rk4", (3,), ("log_snr",), sd.VP(), denoise_last=(False,))


def test_all_leaves_out_what_a_budget_does_not_pay_for():
    labels = {c.label for c in made.candidates("all", (2,), ("log_snr",), sd.VP())}
    assert "ddim" in labels
    assert "rk4" not in labels


def test_every_grid_is_taken_at_every_budget():
    both = made.candidates("ddim", (5, 10), ("log_snr", "karras"), sd.VP())
    assert [(c.budget, c.grid_name) for c in both] == [
        (5, "log_snr"),
        (5, "karras"),
        (10, "log_snr"),
        (10, "karras"),
    ]


@pytest.mark.parametrize(
    ("solver", "tolerances"),
    [("ode", made.TOLERANCES), ("gotta_go_fast", made.STOCHASTIC_TOLERANCES)],
)
def test_an_adaptive_solver_runs_at_each_tolerance(solver, tolerances):
    runs = made.candidates(solver, (5, 10), ("log_snr",), sd.VP())
    assert [c.solver.rtol for c in runs] == list(tolerances)
    assert all(c.budget is None for c in runs)


def test_an_adaptive_solver_that_was_given_a_tolerance_runs_at_that():
    (only,) = made.candidates("ode(rtol=1e-3)", (5,), ("log_snr",), sd.VP())
    assert (only.label, only.solver.rtol) == ("ode(rtol=1e-3)", 1e-3)


def test_all_can_stand_beside_others():
    labels = [c.label for c in made.candidates("all,ddim(eta=1.0)", (5,), ("log_snr",), sd.VP())]
    assert {"ddim", "ddim(eta=1.0)", "unipc"} <= set(labels)


def test_no_solver_is_told():
    with pytest.raises(ValueError, match="solvers: none is given"):
        made.candidates(",", (5,), ("log_snr",), sd.VP())


def test_a_value_of_another_type_is_told():
    with pytest.raises(ValueError, match="solver 'ddim' does not take eta='x'"):
        made.candidates("ddim(eta='x')", (5,), ("log_snr",), sd.VP())


def test_a_solver_with_times_of_its_own_runs_on_them_alone():
    @dataclasses.dataclass(frozen=True)
    class Own(samplers.DDIM):
        times = (1.0, 0.5, 0.001)

    (only,) = made.candidates([Own()], (5, 10), ("log_snr", "karras"), sd.VP())
    np.testing.assert_allclose(only.times, Own.times)
    assert only.budget == 3


def test_a_solver_that_does_not_fit_the_sde_says_so():
    with pytest.raises(ValueError, match="EulerMaruyama needs a finite diffusion"):
        steps("euler_maruyama", sde=sd.Flow(), grid_names=("uniform",))


def test_all_leaves_out_what_does_not_fit_the_sde_and_says_so(caplog):
    with caplog.at_level(logging.WARNING, "sde_diffusion"):
        fit = made.candidates("all", (10,), ("uniform",), sd.Flow())
    assert "euler_maruyama" not in {c.label for c in fit}
    assert "left out: EulerMaruyama needs" in caplog.text


def test_a_solver_without_its_package_is_left_out_of_all_and_named(monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with caplog.at_level(logging.WARNING, "sde_diffusion"):
        found = made.candidates("all", (10,), ("log_snr",), sd.VP())
    assert {c.label.partition("[")[0] for c in found} == set(samplers.SOLVERS) - {"ode"}
    told = r"BlackBox needs diffrax: pip install 'sde-diffusion\[ode\]'"
    assert re.search(f"left out: {told}", caplog.text)
    with pytest.raises(ImportError, match=told):
        made.candidates("ode", (10,), ("log_snr",), sd.VP())


def test_a_budget_below_two_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        steps("ddim", nfe=(1,))


def test_a_grid_may_have_fields_or_be_a_function():
    def halves(sde, steps):
        return sde.t_max * 0.5 ** jnp.arange(steps + 1)

    sde = sd.VP()
    found = candidates("ddim", (6,), ("karras(rho=3)", halves), sde)
    assert [c.grid_name for c in found] == ["karras(rho=3)", "halves"]
    np.testing.assert_allclose(found[0].grid, sd.grids.karras(sde, 5, rho=3.0))
    np.testing.assert_allclose(found[1].grid, halves(sde, 5))


def test_an_unknown_field_of_a_grid_lists_those_that_there_are():
    with pytest.raises(ValueError, match="unknown field of grid 'karras' 'rh'; did you mean 'rho'"):
        candidates("ddim", (6,), ("karras(rh=3)",), sd.VP())


def test_grids_given_by_name_and_adaptive_solvers_end_at_t_min():
    for candidate in candidates("ddim,ode(rtol=0.1)", (5,), ("karras",), sd.VP(), t_min=0.1):
        assert candidate.grid[-1] == pytest.approx(0.1)
        assert candidate.grid[0] == pytest.approx(1.0)
