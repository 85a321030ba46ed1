"""The picture of docs/few_steps.md, from what table.py wrote: errors against evaluations.

    python experiments/few_steps/picture.py runs/few_steps docs/images/few_steps.png

Above, the RMS distance of samples to where the exact flow takes their noise; below, the sliced
Wasserstein distance to exact samples, with its floor. A method that learns only the map to the data
is sampled with new noise between its steps, where the first distance is not defined.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BUDGETS = (1, 2, 4)
ROWS = {"rms": "distance to the exact end", "sliced": "sliced Wasserstein distance"}


def of_student(row: dict[str, Any], name: str) -> tuple[list[int], list[float]]:
    """The budgets and the figures, by the way of sampling that suits the method."""
    renoised = any("gamma=1" in key for key in row)
    points = []
    for nfe in BUDGETS:
        # At one evaluation no noise is added, and there is no way to choose.
        gamma = "1" if renoised and nfe > 1 else "0"
        at = row[f"{nfe} gamma={gamma}"]
        if name in at:
            points.append((nfe, at[name]))
    return [nfe for nfe, _ in points], [value for _, value in points]


def of_solvers(rows: dict[str, Any], kind: str, name: str) -> tuple[list[int], list[float]]:
    found = [(int(key.partition(", ")[2]), row) for key, row in rows.items() if kind in key]
    return [nfe for nfe, _ in found], [row[str(nfe)][name] for nfe, row in found]


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    order = ("mixture2d", "mixture64d", "digits")
    files = [folder / f"{name}.json" for name in order]
    results = [json.loads(file.read_text()) for file in files if file.exists()]
    figure, axes = plt.subplots(
        2, len(results), figsize=(5 * len(results), 8), sharex=True, squeeze=False
    )
    names = list(results[0]["students"])
    colours = dict(zip(names, plt.get_cmap("tab20").colors, strict=False))
    for column, result in enumerate(results):
        for row, (measure, label) in enumerate(ROWS.items()):
            axis = axes[row][column]
            for name, student in result["students"].items():
                style = "--" if "(data)" in name else "-"
                x, y = of_student(student, measure)
                axis.plot(x, y, style, marker="o", ms=4, color=colours[name], label=name)
            for kind, marker in (("standard", "s"), ("fitted", "^")):
                x, y = of_solvers(result["solvers"], kind, measure)
                if x:
                    axis.plot(x, y, "k:", marker=marker, label=f"{kind} solver, exact model")
            if measure == "sliced":
                axis.axhline(result["floor"], color="grey", lw=0.8, label="floor")
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_xticks(BUDGETS, [str(nfe) for nfe in BUDGETS])
            axis.grid(alpha=0.3, which="both")
            axis.set_title(result["problem"] if row == 0 else "")
            axis.set_ylabel(label if column == 0 else "")
            axis.set_xlabel("evaluations" if row == 1 else "")
    figure.legend(*axes[1][0].get_legend_handles_labels(), loc="lower center", ncols=3)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=80)


if __name__ == "__main__":
    main()
