"""Comparing solvers: the problems, the rows of measurements, the parts of the error, the report.

`compare` measures solvers by data or an exact solution, and `compare_prompts` those of a pretrained
pipeline by a fine solution.
"""

from sde_diffusion.comparison.compare import METRICS, compare
from sde_diffusion.comparison.problems import PROBLEMS, Problem, exact_problem
from sde_diffusion.comparison.prompts import compare_prompts
from sde_diffusion.comparison.prompts_report import prompts_table

__all__ = [
    "METRICS",
    "PROBLEMS",
    "Problem",
    "compare",
    "compare_prompts",
    "exact_problem",
    "prompts_table",
]
