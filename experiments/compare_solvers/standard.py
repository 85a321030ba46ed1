"""The standard solvers that these scripts hold others against, and how they write a table."""

import sde_diffusion as sd
from sde_diffusion.comparison.candidates import Candidate, candidates
from sde_diffusion.comparison.table import undenoised

SDES = {"vp": sd.VP(t_min=1e-3), "edm": sd.EDM()}
SOLVERS = "all,unipc(p=2),deis(order=2)"
GRIDS = (
    *("uniform", "leading", "trailing", "quadratic"),
    *("log_snr", "karras", "cosine", "beta"),
)


def deterministic(sde: sd.SDE, nfe: int) -> list[Candidate]:
    """Every one on every grid, with a last evaluation that denoises and with a step in its place.

    Of those that are given their times: an adaptive one does not make a given number.
    """
    made = candidates(SOLVERS, (nfe,), GRIDS, sde, (True, False))
    return [item for item in made if not (item.solver.stochastic or item.solver.adaptive)]


def told(item: Candidate) -> str:
    return f"{item.label}, {item.grid_name}{undenoised({'denoise_last': item.denoise_last})}"


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [
        [f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
