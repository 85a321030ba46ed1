"""Pictures of a comparison: which lines they tell apart."""

import matplotlib.pyplot as plt
import pytest

from sde_diffusion.comparison import figures


def row(solver, nfe, rms, grid="log_snr", budget=0):
    budget = nfe if budget == 0 else budget
    return {
        "solver": solver,
        "grid": grid,
        "nfe": nfe,
        "budget": budget,
        "seconds": nfe,
        "rms": rms,
    }


@pytest.fixture
def told():
    """The names in the legend, and the first axis."""
    rows = [row(f"solver_{i}", nfe, (i + 1) / nfe) for i in range(10) for nfe in (5, 10)]
    rows += [row("fitted_5", 5, 1e-3, "own"), row("adaptive[0.1]", 30, 0.1, "own", None)]
    figure = figures.work_precision(rows, "rms", "a title")
    yield [text.get_text() for text in figure.legends[0].get_texts()], figure.axes[0]
    plt.close(figure)


def test_the_best_are_told_and_the_others_are_not(told):
    names, _ = told
    assert {f"solver_{i}" for i in range(figures.BEST)} <= set(names)
    assert not {"solver_8", "solver_9"} & set(names)


def test_a_fitted_solver_is_told_though_it_has_one_budget(told):
    names, axis = told
    assert {"fitted_5", "adaptive"} <= set(names)
    (line,) = [line for line in axis.lines if line.get_label() == "fitted_5"]
    assert line.get_marker() == "*"
