"""report.html: the table and the pictures in one self-contained file."""

import html
import io
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from sde_diffusion.comparison import figures
from sde_diffusion.comparison.store import Row
from sde_diffusion.comparison.table import measured, number, undenoised

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 8px; text-align: right; white-space: nowrap; }
th { cursor: pointer; border-bottom: 1px solid; position: sticky; top: 0; background: white; }
th:first-child, td:first-child { text-align: left; }
tr:hover td { background: #eef; }
.interval { color: #777; }
.broken td { color: #b00; }
.scroll { overflow-x: auto; }
svg { max-width: 100%; height: auto; }
"""
PUSHFORWARD = (
    "<b>kl pushforward</b> is the divergence, in nats, of the density that the solver's own steps "
    "make of the prior's from that of the data, for deterministic solvers that make the steps of "
    "the grid; its floor is zero. Behind a &gt; it is a lower bound: the steps are so large that "
    "several starts end at one sample. "
)
# A click on a column's header sorts the table by that column.
SCRIPT = """
document.querySelectorAll("th").forEach((head, column) => head.onclick = () => {
  const body = document.querySelector("tbody");
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = (a, b) => (value(a) - value(b)) || value(a).localeCompare(value(b));
  const sign = head.dataset.up === "1" ? -1 : 1;
  head.dataset.up = sign;
  body.append(...[...body.rows].sort((a, b) => sign * order(a, b)));
});
"""


def write(folder: Path, rows: Sequence[Row], metrics: Sequence[str], part_metric: str) -> None:
    """Write report.html, and each picture as a PNG, for the rows of one problem."""
    first = rows[0]
    title = f"{first['problem']} under {first['sde']}, {first['num']} samples"
    made: dict[str, Figure] = {}
    for metric in ("rms", *metrics):
        if any(row[metric] > 0 for row in rows):
            made[metric] = figures.work_precision(rows, metric, title)
    made["error_apart"] = figures.error_apart(rows, part_metric, title)
    for name, figure in made.items():
        figure.savefig(folder / f"{name}.png", dpi=130)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{_explained(first, part_metric)}</p>",
        *(f"<h2>{_heading(name)}</h2>{_svg(figure)}" for name, figure in made.items()),
        "<h2>Every row</h2><p>Click on a head to sort. In grey: the 95 % interval.</p>",
        _table(rows, metrics),
    ]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><body>{''.join(parts)}<script>{SCRIPT}</script></body></html>\n"
    )
    partial = folder / "report.html.tmp"
    partial.write_text(page)
    partial.replace(folder / "report.html")


def _explained(row: Row, part_metric: str) -> str:
    return (
        "Evaluations count every call of the model, the last one that denoises included. "
        "<b>rms</b> is the distance of each sample to where the probability flow takes the same "
        f"start, the root of the mean over samples of its square, for deterministic solvers; the "
        f"flow is solved by {row['fine_steps']} steps of RK4, and its own error, by half the "
        f"steps, is {number(row['reference_error'])}. The floor of a metric is its value "
        f"between two sets of {row['floor_num']} of the data: an error near it cannot be seen. "
        f"The error taken apart, by {part_metric.replace('_', ' ')}: discretization is solver "
        "against flow; truncation is the exact flow from the prior to t_min against the one "
        "from the process's own start to the data; score error is the network's flow against the "
        "exact one. Where the distribution is not known, truncation is the network's flow from "
        "the prior against the one from the process's own start, and the rest is that one against "
        "the data. "
        f"{PUSHFORWARD if 'kl_pushforward' in row else ''}"
        f"Measured on {html.escape(str(row['device']))}."
    )


def _heading(name: str) -> str:
    return "The error taken apart" if name == "error_apart" else name.replace("_", " ")


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    plain = ("discretization", "truncation", "score_error", "seconds", "compile_seconds")
    heads = ["solver", "grid", "nfe", "rms", *metrics, *plain, "MB"]
    body = []
    for row in rows:
        cells = [_cell(row["solver"]), _cell(f"{row['grid']}{undenoised(row)}"), _cell(row["nfe"])]
        cells += [_measured(row, metric) for metric in ("rms", *metrics)]
        cells += [_cell(row[name]) for name in plain] + [_cell(row["memory_bytes"] / 1e6)]
        mark = "" if row["finite"] == 1.0 else ' class="broken"'
        body.append(f"<tr{mark}>{''.join(cells)}</tr>")
    floors = "".join(
        _cell(rows[0].get(f"{name}_floor", math.nan) if name in metrics else "") for name in heads
    )
    return (
        '<div class="scroll"><table><thead><tr>'
        + "".join(f"<th>{name.replace('_', ' ')}</th>" for name in heads)
        + f"</tr></thead><tbody>{''.join(body)}</tbody>"
        + f"<tfoot><tr><td>floor</td>{floors.removeprefix(_cell(''))}</tr></tfoot></table></div>"
    )


def _measured(row: Row, metric: str) -> str:
    low, high = row.get(f"{metric}_low", math.nan), row.get(f"{metric}_high", math.nan)
    interval = (
        "" if math.isnan(low) else f' <span class="interval">{number(low)} to {number(high)}</span>'
    )
    return f'<td data-value="{row[metric]}">{html.escape(measured(row, metric))}{interval}</td>'


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    return f'<td data-value="{value}">{number(value)}</td>'
