"""Which solver and grid to use at so many evaluations: `compare` over the exact problems.

    python experiments/compare_solvers/study.py [--out runs/study]

Writes best.md: for each problem, SDE and number of evaluations the solver and grid of least error
among deterministic and among stochastic ones, by distance to the flow's end and by the sliced
Wasserstein distance to the data; best.png, the distance of every deterministic solver on its best
grid; and leaves the report of each comparison beside them. Rows that are there already are not
measured again.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from sde_diffusion import comparison, sdes
from sde_diffusion.comparison.problems import named

PROBLEMS = ("mixture2d", "mixture64d", "crosses", "box")
SDES = ("vp", "edm")
SOLVERS = "euler,ddim,edm,dpmpp_2m,dpmpp_3m,deis,ipndm,unipc,ddim(eta=1.0),sde_dpmpp_2m,sa_solver"
GRIDS = ("log_snr", "karras", "quadratic")
METRIC = "sliced_wasserstein"


def best(rows: list[dict], budget: int, metric: str, *, stochastic: bool) -> str:
    """The solver and grid of least error, with it."""
    fit = [r for r in rows if r["budget"] == budget and r["stochastic"] == stochastic]
    fit = [r for r in fit if not math.isnan(r[metric])]
    row = min(fit, key=lambda r: r[metric])
    return f"{row[metric]:.3g} {row['solver']}, {row['grid']}"


def draw(axis: Any, title: str, rows: list[dict], budgets: list[int]) -> None:
    """The distance over evaluations of each deterministic solver, on its best grid at each."""
    solvers = dict.fromkeys(row["solver"] for row in rows if not row["stochastic"])
    for number, solver in enumerate(solvers):
        least = [
            np.nanmin([r["rms"] for r in rows if (r["solver"], r["budget"]) == (solver, budget)])
            for budget in budgets
        ]
        axis.loglog(budgets, least, marker="os^vDPX*"[number % 8], label=solver)
    axis.set(title=title, xlabel="network evaluations", xticks=budgets, ylim=(None, 10.0))
    axis.set_xticklabels(budgets)
    axis.minorticks_off()
    axis.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--nfe", default="5,10,20")
    args = parser.parse_args()
    budgets = [int(n) for n in args.nfe.split(",")]
    heads = (
        "problem", "SDE", "NFE", "rms, deterministic", "sliced W, deterministic",
        "sliced W, stochastic", "its floor",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    size = (4 * len(PROBLEMS), 4 * len(SDES))
    figure, axes = plt.subplots(len(SDES), len(PROBLEMS), figsize=size, layout="constrained")
    for column, name in enumerate(PROBLEMS):
        for row, label in enumerate(SDES):
            rows = comparison.compare(
                named(name, sdes.KINDS[label]()),
                SOLVERS,
                budgets,
                grids=GRIDS,
                metrics=[METRIC],
                out=args.out / f"{name}_{label}",
                progress=lambda todo, what=f"{name}, {label}": tqdm(todo, desc=what),
            )
            for budget in budgets:
                cells = (
                    name, label, str(budget),
                    best(rows, budget, "rms", stochastic=False),
                    best(rows, budget, METRIC, stochastic=False),
                    best(rows, budget, METRIC, stochastic=True),
                    f"{rows[0][f'{METRIC}_floor']:.3g}",
                )  # fmt: skip
                lines.append("| " + " | ".join(cells) + " |")
            draw(axes[row, column], f"{name}, {label}", rows, budgets)
            (args.out / "best.md").write_text("\n".join(lines) + "\n")
    axes[0, 0].set_ylabel("distance to the flow's end, rms")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    figure.savefig(args.out / "best.png", dpi=80)
    print((args.out / "best.md").read_text())


if __name__ == "__main__":
    main()
