"""Which solver and grid to use at so many evaluations: `compare` over the exact problems.

    python experiments/compare_solvers/study.py [--out runs/study]

Writes best.md: for each problem, SDE and number of evaluations the solver and grid of least error
among deterministic and among stochastic ones, by distance to the flow's end and by the sliced
Wasserstein distance to the data; and leaves the report of each comparison beside it. Rows that are
there already are not measured again.
"""

import argparse
import math
from pathlib import Path

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
    for name in PROBLEMS:
        for label in SDES:
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
            (args.out / "best.md").write_text("\n".join(lines) + "\n")
    print((args.out / "best.md").read_text())


if __name__ == "__main__":
    main()
