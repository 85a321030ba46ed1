"""The rows as a text table."""

import math
from collections.abc import Sequence

from sde_diffusion.comparison.store import Row


def table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """One line for each row, sorted by evaluations and the first metric; * marks non-finite rows.

    The last line holds the floors: each metric between two sets of exact samples of the same size.
    A > marks a lower bound.
    """
    ordered = sorted(rows, key=lambda row: (row["nfe"], _last_if_nan(row[metrics[0]])))
    shown = ["rms", *metrics, "discretization", "truncation", "score_error"]
    header = ["solver", "grid", "nfe", *shown, "ms", "compile s", "MB"]
    lines = [
        [
            row["solver"] + ("" if row["finite"] == 1.0 else "*"),
            f"{row['grid']}{undenoised(row)}",
            f"{row['nfe']:.4g}",
            *(measured(row, name) for name in shown),
            f"{1e3 * row['seconds']:.1f}",
            f"{row['compile_seconds']:.2f}",
            f"{row['memory_bytes'] / 1e6:.1f}",
        ]
        for row in ordered
    ]
    if rows:
        floors = {name: number(rows[0][f"{name}_floor"]) for name in metrics}
        lines.append(["floor", "", "", *(floors.get(name, "") for name in shown), "", "", ""])
    text = aligned(header, lines)
    if any(row["finite"] < 1.0 for row in rows):
        text.append("* some samples are not finite")
    if any(is_bound(row, name) for row in rows for name in metrics):
        text.append("> at least so much: the steps are so large that starts end at one sample")
    return "\n".join(text)


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: two columns of words, and columns of numbers after them."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (header, *lines)
    ]


def measured(row: Row, name: str) -> str:
    """The row's value of that metric as text, after a > if it is a lower bound."""
    return f"{'>' if is_bound(row, name) else ''}{number(row[name])}"


def undenoised(row: Row) -> str:
    """The note at the end of a row whose last evaluation does not denoise."""
    return "" if row["denoise_last"] else ", not denoised"


def is_bound(row: Row, name: str) -> bool:
    """Whether the row's value of that metric is a lower bound."""
    return row.get(f"{name}_folded", 0.0) > 0.0


def number(value: float) -> str:
    """A number with three digits, or a dash if it is missing."""
    return "-" if math.isnan(value) else f"{value:.3g}"


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
