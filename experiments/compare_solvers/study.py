"""Which solver and grid to use at so many evaluations: `compare` over the exact problems.

    python experiments/compare_solvers/study.py [--out runs/study] [--problems NAME,NAME]
        [--sdes vp,edm]

Writes best.md: for each problem, SDE and number of evaluations the error of the best standard
solver and of one that was fitted, by distance to the flow's end; and by the sliced Wasserstein
distance to the data the best deterministic and the best stochastic one. The last evaluation of a
standard solver denoises, or is left for a step. And best.png, the distance of every deterministic
solver on its best grid, with the better use of the last evaluation; the report of each comparison
lies beside them. Fits and rows that are there already are not made again, so that parts of it may
run side by side.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from sde_diffusion import comparison, fitting, sdes
from sde_diffusion.cli import fit as command
from sde_diffusion.comparison.problems import PROBLEMS, Problem, named
from sde_diffusion.comparison.table import undenoised

SDES = ("vp", "edm")
SOLVERS = (
    "euler,ddim,edm,dpm_fast,dpmpp_2m,dpmpp_3m,deis,ipndm,unipc,"
    "ddim(eta=1.0),sde_dpmpp_2m,sa_solver"
)
GRIDS = ("log_snr", "karras", "quadratic")
METRIC = "sliced_wasserstein"
# A fit is for few evaluations: with many any solver is near, and it takes longer.
FITTED_UP_TO = 10
HEADS = (
    "problem", "SDE", "NFE", "rms, standard", "rms, fitted", "sliced W, deterministic",
    "sliced W, stochastic", "its floor",
)  # fmt: skip


def fitted(problem: Problem, budget: int, seconds: float, folder: Path) -> str:
    """The file of a solver that was fitted to the problem."""
    path = folder / f"fitted_{budget}.json"
    if not path.exists():
        made = fitting.fit(
            jax.random.key(1),  # not the noise that solvers are compared on
            problem.model,
            nfe=budget,
            seconds=seconds,
            **command.sizes(problem),
        )
        fitting.save(path, made, problem.sde, problem.name)
    return str(path)


def least(rows: list[dict], metric: str) -> dict:
    return min((r for r in rows if not math.isnan(r[metric])), key=lambda r: r[metric])


def told(row: dict, metric: str) -> str:
    return f"{row[metric]:.3g} {row['solver']}, {row['grid']}{undenoised(row)}"


def line(name: str, label: str, budget: int, rows: list[dict]) -> str:
    """A line of the table."""
    rows = [r for r in rows if r["budget"] == budget]
    standard = [r for r in rows if r["grid"] != "own"]
    own = [f"{r['rms']:.3g}" for r in rows if r["grid"] == "own"]
    deterministic = [r for r in standard if not r["stochastic"]]
    cells = (
        name, label, str(budget),
        told(least(deterministic, "rms"), "rms"),
        own[0] if own else "",
        told(least(deterministic, METRIC), METRIC),
        told(least([r for r in standard if r["stochastic"]], METRIC), METRIC),
        f"{rows[0][f'{METRIC}_floor']:.3g}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def draw(axis: Any, title: str, rows: list[dict], budgets: list[int]) -> None:
    """The distance over evaluations of each deterministic solver, at its best with each."""
    rows = [row for row in rows if not row["stochastic"]]
    for number, solver in enumerate(dict.fromkeys(r["solver"] for r in rows if r["grid"] != "own")):
        best = [
            np.nanmin([r["rms"] for r in rows if (r["solver"], r["budget"]) == (solver, budget)])
            for budget in budgets
        ]
        axis.loglog(budgets, best, marker="os^vDPX*"[number % 8], label=solver)
    own = [row for row in rows if row["grid"] == "own"]
    style = {"marker": "*", "markersize": 11, "linestyle": "--", "color": "black"}
    axis.loglog([r["budget"] for r in own], [r["rms"] for r in own], label="fitted", **style)
    axis.set(title=title, xlabel="network evaluations", xticks=budgets, ylim=(None, 10.0))
    axis.set_xticklabels(budgets)
    axis.minorticks_off()
    axis.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--nfe", default="5,10,20")
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--sdes", default=",".join(SDES))
    parser.add_argument("--seconds", type=float, default=60.0, help="of each fit")
    args = parser.parse_args()
    budgets = [int(n) for n in args.nfe.split(",")]
    problems, labels = args.problems.split(","), args.sdes.split(",")
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    size = (3.4 * len(problems), 3.6 * len(labels))
    figure, axes = plt.subplots(
        len(labels), len(problems), figsize=size, layout="constrained", squeeze=False
    )
    for column, name in enumerate(problems):
        for place, label in enumerate(labels):
            problem, folder = named(name, sdes.KINDS[label]()), args.out / f"{name}_{label}"
            few = [budget for budget in budgets if budget <= FITTED_UP_TO]
            files = [fitted(problem, budget, args.seconds, folder) for budget in few]
            rows = comparison.compare(
                problem,
                ",".join([SOLVERS, *files]),
                budgets,
                grids=GRIDS,
                denoise_last=(True, False),
                metrics=[METRIC],
                out=folder,
                progress=lambda todo, what=f"{name}, {label}": tqdm(todo, desc=what),
            )
            lines += [line(name, label, budget, rows) for budget in budgets]
            draw(axes[place, column], f"{name}, {label}", rows, budgets)
    axes[0, 0].set_ylabel("distance to the flow's end, rms")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=9)
    figure.savefig(args.out / "best.png", dpi=80)
    (args.out / "best.md").write_text("\n".join(lines) + "\n")
    print((args.out / "best.md").read_text())


if __name__ == "__main__":
    main()
