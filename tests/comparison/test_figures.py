"""Pictures of a comparison: which lines they tell apart."""

import matplotlib.pyplot as plt
import pytest

from sde_diffusion.comparison import figures


def row(solver, nfe, rms, grid="log_snr", budget=0, denoise_last=True):
    budget = nfe if budget == 0 else budget
    return {
        "solver": solver,
        "grid": grid,
        "denoise_last": denoise_last,
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


@pytest.mark.parametrize(
    ("grid", "others", "name"),
    [
        ("log_snr", ["log_snr"], "heun, not denoised"),
        ("log_snr", ["log_snr", "karras"], "heun, log_snr, not denoised"),
        ("own", ["log_snr", "karras"], "heun, not denoised"),
    ],
)
def test_a_row_that_is_not_denoised_says_so_beside_its_solver_and_grid(grid, others, name):
    rows = [row("ddim", 5, 0.1, other) for other in others]
    assert figures.name_of(row("heun", 5, 0.1, grid, denoise_last=False), rows) == name
