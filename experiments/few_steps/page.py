"""Writes the tables into docs/few_steps.md, between its two marks, from what table.py wrote.

    python experiments/few_steps/page.py runs/few_steps docs/few_steps.md

A problem that the folder has no results of keeps the table that the page has.
"""

import json
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- tables of experiments/few_steps -->", "<!-- end of the tables -->"
TITLES = {
    "mixture2d": "25 Gaussians in the plane",
    "mixture64d": "10 Gaussians in 64 dimensions",
    "digits": "The digits, known by heart",
}
HEAD = (
    "| | steps | map | 1: rms | sliced | 2: rms | sliced | 4: rms | sliced |\n" + "|---" * 9 + "|"
)


def figure(row: dict[str, Any] | None, name: str) -> str:
    if row is None or name not in row:
        return ""
    if name == "sliced":
        half = 0.5 * (row["sliced_high"] - row["sliced_low"])
        return f"{row[name]:.3f} ± {half:.3f}"
    return f"{row[name]:.3f}"


def of_student(name: str, row: dict[str, Any]) -> list[str]:
    gammas = sorted({key.partition("gamma=")[2] for key in row if "gamma=" in key}, key=float)
    lines = []
    for gamma in gammas:
        told = name if gamma == "0" else f"{name}, renoised"
        cells = [str(row["steps"]), f"{row['map']:.3f}"]
        for nfe in (1, 2, 4):
            at = row[f"{nfe} gamma={gamma}"]
            cells += [figure(at, "rms"), figure(at, "sliced")]
        lines.append(f"| {told} | {' | '.join(cells)} |")
    return lines


def of_solver(name: str, row: dict[str, Any]) -> str:
    kind, _, nfe = name.partition(", ")
    told = f"{kind}: {row['by']}" if "by" in row else kind
    cells = ["", ""]
    for budget in ("1", "2", "4"):
        at = row.get(budget) if budget == nfe else None
        cells += [figure(at, "rms"), figure(at, "sliced")]
    return f"| {told} | {' | '.join(cells)} |"


def of_problem(result: dict[str, Any]) -> str:
    lines = [
        f"### {TITLES[result['problem']]}\n",
        f"{result['budget'] / 1e6:g} million evaluations for each student, {result['num']:,} "
        f"samples. The floor of the sliced distance is {result['floor']:.3f}.\n",
        HEAD,
    ]
    for name, row in result["students"].items():
        lines += of_student(name, row)
    lines += [of_solver(name, row) for name, row in result["solvers"].items()]
    return "\n".join(lines)


def main() -> None:
    folder, page = Path(sys.argv[1]), Path(sys.argv[2])
    before, _, rest = page.read_text().partition(BEGIN)
    there, _, after = rest.partition(END)
    parts = (f"### {part}".rstrip() for part in there.split("### ")[1:])
    old = {part.partition("\n")[0].removeprefix("### "): part for part in parts}
    files = {title: folder / f"{name}.json" for name, title in TITLES.items()}
    made = {t: of_problem(json.loads(f.read_text())) for t, f in files.items() if f.exists()}
    tables = [(old | made)[title] for title in TITLES.values() if title in old | made]
    page.write_text("\n\n".join([before + BEGIN, *tables, END + after]))


if __name__ == "__main__":
    main()
