"""Pictures of a comparison: work-precision diagrams, and the parts of the error."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from sde_diffusion.comparison.store import Row
from sde_diffusion.comparison.table import is_bound, undenoised

BEST = 8  # lines in colour; the others are grey, and the table identifies them
PARTS = ("discretization", "truncation", "score_error")
PART_NAMES = ("discretization", "truncation", "score or, without an exact one, all the rest")
MARKERS = "osD^vP*X"


def name_of(row: Row, rows: Sequence[Row]) -> str:
    """The name of a row's line: the solver, with its grid if the rows have several grids.

    The tolerance of an adaptive solver is left out.
    """
    name = str(row["solver"]).partition("[")[0]
    several = len({r["grid"] for r in rows if r["grid"] != "own"}) > 1
    grid = f", {row['grid']}" if several and row["grid"] != "own" else ""
    return f"{name}{grid}{undenoised(row)}"


def work_precision(rows: Sequence[Row], metric: str, title: str) -> Figure:
    """`metric` over evaluations and over seconds, one line for each solver.

    The solvers with the lowest errors (geometric mean over the budgets) are coloured. Lines of
    adaptive solvers are dotted. Fitted solvers, which have one budget each, are stars. The dashed
    line is the floor: the metric between two sets of exact samples of the same size. A circle marks
    a lower bound.
    """
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if (
            row[metric] > 0
        ):  # rows without a finite value, such as the RMS of a stochastic solver, have no point
            lines.setdefault(name_of(row, rows), []).append(row)
    ranking = _ranking(lines, metric)
    adaptive = [name for name, line in lines.items() if line[0]["budget"] is None]
    colours = dict(zip(ranking, colormaps["tab10"].colors, strict=False))  # type: ignore[attr-defined]
    colours |= dict(zip(adaptive, ("black", "0.35", "saddlebrown", "indigo"), strict=False))
    fitted = [n for n, line in lines.items() if line[0]["grid"] == "own" and n not in adaptive]
    colours |= dict(zip(fitted, colormaps["Dark2"].colors, strict=False))  # type: ignore[attr-defined]
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, work, label in zip(
        axes, ("nfe", "seconds"), ("network evaluations", "seconds, compiled"), strict=True
    ):
        for name in sorted(lines, key=lambda name: name in ranking):  # the best on top
            line = sorted(lines[name], key=lambda row: row[work])
            best, told = name in ranking, name in colours
            marker = MARKERS[ranking.index(name)] if best else "."
            axis.plot(
                [row[work] for row in line],
                [row[metric] for row in line],
                marker="*" if name in fitted else marker,
                markersize=11 if name in fitted else 5 if best else 3,
                linestyle=":" if name in adaptive else "-",
                linewidth=1.6 if told else 0.7,
                color=colours.get(name, "0.75"),
                label=name if told else None,
            )
        bounds = [row for row in rows if is_bound(row, metric)]
        if bounds:
            axis.plot(
                [row[work] for row in bounds],
                [row[metric] for row in bounds],
                "o",
                color="black",
                fillstyle="none",
                markersize=10,
                markeredgewidth=0.7,
                label="at least so much",
            )
        floor = _floor(rows, metric)
        if floor > 0:
            axis.axhline(floor, color="black", linestyle="--", linewidth=1, label="floor")
        axis.set(xscale="log", yscale="log", xlabel=label)
        axis.grid(alpha=0.25, which="both", linewidth=0.5)
    budgets = {row["budget"] for row in rows if isinstance(row["budget"], int)}
    ticks = sorted(budgets | ({50, 100, 200} if adaptive else set()))
    axes[0].set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axes[0].minorticks_off()
    axes[1].tick_params(axis="x", which="both", rotation=30)
    axes[0].set_ylabel(metric.replace("_", " "))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    axes[0].set_title(title, loc="left", fontsize=10)
    return figure


def error_apart(rows: Sequence[Row], metric: str, title: str) -> Figure:
    """The three parts of each row's error by `metric`, as stacked bars, one panel a budget."""
    panels: dict[Any, list[Row]] = {}
    for row in rows:
        budget = row["budget"] if isinstance(row["budget"], int) else "adaptive"
        panels.setdefault(budget, []).append(row)
    tallest = max(len(panel) for panel in panels.values())
    figure = Figure(figsize=(4.2 * len(panels), 2.0 + 0.24 * tallest), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    floor = _floor(rows, metric)
    for axis, (budget, panel) in zip(axes, panels.items(), strict=True):
        # A row that is not finite has no bar: it comes last, with a note.
        panel = sorted(panel, key=lambda row: (row["finite"] != 1.0, _total(row)))
        names = [
            (f"{row['solver']}{undenoised(row)}" if budget == "adaptive" else name_of(row, rows))
            + ("" if row["finite"] == 1.0 else " (not finite)")
            for row in panel
        ]
        left = np.zeros(len(panel))
        for part, part_name, colour in zip(
            PARTS, PART_NAMES, ("#4878a8", "#e3a14f", "#b5524c"), strict=True
        ):
            width = np.nan_to_num(np.array([row[part] for row in panel], float))
            axis.barh(names, width, left=left, color=colour, label=part_name)
            left += width
        axis.axvline(floor, color="black", linestyle="--", linewidth=1, label="floor")
        axis.invert_yaxis()
        # A single huge error would leave the other bars without length.
        shown = min(max(float(left.max()), floor), 12 * max(floor, float(np.median(left))))
        axis.set_xlim(0, 1.05 * shown)
        axis.set_title("adaptive" if budget == "adaptive" else f"{budget} evaluations", fontsize=10)
        axis.tick_params(labelsize=7)
        axis.set_xlabel(metric.replace("_", " "))
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(title)
    return figure


def _ranking(lines: dict[str, list[Row]], metric: str) -> list[str]:
    """The names of the BEST lines, by the geometric mean over the budgets that most lines have."""
    budgets = {row["budget"] for line in lines.values() for row in line}
    full = {
        name: float(np.mean([math.log(row[metric]) for row in line]))
        for name, line in lines.items()
        if {row["budget"] for row in line} >= {b for b in budgets if isinstance(b, int)}
    }
    return sorted(full, key=full.__getitem__)[:BEST]


def _floor(rows: Sequence[Row], metric: str) -> float:
    return float(rows[0].get(f"{metric}_floor", math.nan))


def _total(row: Row) -> float:
    return float(np.nansum([row[part] for part in PARTS]))
