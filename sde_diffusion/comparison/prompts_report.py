"""What compare_prompts() leaves: its rows as a text table, and pictures."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sde_diffusion.comparison.store import Row
from sde_diffusion.comparison.table import aligned, number

# Columns of the sheet of pictures, beside the fine one.
SHOWN = 5


def prompts_table(rows: Sequence[Row]) -> str:
    """One line for each row, the nearest to the fine solution first within each budget."""
    lines = [
        [
            row["solver"] + ("" if row["finite"] == 1.0 else "*"),
            row["grid"],
            f"{row['budget']}",
            f"{row['nfe']:.4g}",
            number(row["rms"]),
            number(row["rms_pictures"]),
            f"{row['seconds'] / len(row['prompts']):.2f}",
        ]
        for row in ranked(rows)
    ]
    if rows:
        error, pictures = rows[0]["reference_error"], rows[0]["reference_error_pictures"]
        lines.append(["the fine solution", "", "", "", number(error), number(pictures), ""])
    text = aligned(["solver", "grid", "budget", "nfe", "rms", "rms pictures", "s"], lines)
    if any(row["finite"] < 1.0 for row in rows):
        text.append("* some latents are not finite")
    return "\n".join(text)


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The rows by budget, and the nearest to the fine solution first."""
    return sorted(rows, key=lambda row: (row["budget"], row["rms"] if row["rms"] > 0 else math.inf))


def keep(folder: Path, name: str, picture: np.ndarray) -> None:
    """Save a picture [H, W, C] in [0, 1] under the name of its row."""
    from matplotlib.image import imsave

    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    shown = np.nan_to_num(picture[..., 0] if picture.shape[-1] == 1 else picture)
    imsave(folder / "pictures" / f"{name}.png", np.clip(shown, 0.0, 1.0))


def draw(folder: Path, rows: Sequence[Row]) -> None:
    """rms.png, errors over evaluations, and pictures.png, the best solvers beside the fine one."""
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    from sde_diffusion.comparison.figures import work_precision

    if any(row["rms"] > 0 for row in rows):
        figure = work_precision(rows, "rms", f"{rows[0]['problem']}: {rows[0]['prompts'][0]}")
        figure.savefig(folder / "rms.png", dpi=130)
    budgets = sorted({row["budget"] for row in rows})
    sheet = Figure(figsize=(2.2 * (SHOWN + 1), 2.6 * len(budgets)), layout="constrained")
    axes = sheet.subplots(len(budgets), SHOWN + 1, squeeze=False)
    for line, budget in zip(axes, budgets, strict=True):
        best = [row for row in ranked(rows) if row["budget"] == budget][:SHOWN]
        titles = [f"{row['solver']}, {row['grid']}\n{number(row['rms'])}" for row in best]
        shown = zip(
            ["fine", *titles], [rows[0]["problem_id"], *(r["id"] for r in best)], strict=True
        )
        for axis in line:
            axis.set_axis_off()
        for axis, (title, name) in zip(line, shown, strict=False):
            axis.imshow(imread(folder / "pictures" / f"{name}.png"))
            axis.set_title(f"{budget}: {title}" if title == "fine" else title, fontsize=8)
    sheet.savefig(folder / "pictures.png", dpi=130)
