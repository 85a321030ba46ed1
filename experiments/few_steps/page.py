"""The tables of docs/few_steps.md, from what table.py wrote.

python experiments/few_steps/page.py runs/few_steps
"""

import json
import sys
from pathlib import Path
from typing import Any

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


def main() -> None:
    for path in sorted(Path(sys.argv[1]).glob("*.json"), reverse=True):
        result = json.loads(path.read_text())
        print(
            f"### {result['problem']}\n\n{result['budget']:,.0f} evaluations a student; "
            f"{result['num']:,} samples; the floor of the sliced distance is "
            f"{result['floor']:.3f}.\n\n{HEAD}"
        )
        for name, row in result["students"].items():
            print("\n".join(of_student(name, row)))
        for name, row in result["solvers"].items():
            print(of_solver(name, row))
        print()


if __name__ == "__main__":
    main()
