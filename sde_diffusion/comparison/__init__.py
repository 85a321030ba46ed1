"""Comparing solvers: the problems, the rows of measurements, the parts of the error, the report."""

from sde_diffusion.comparison.compare import METRICS, compare
from sde_diffusion.comparison.problems import PROBLEMS, Problem, exact_problem

__all__ = ["METRICS", "PROBLEMS", "Problem", "compare", "exact_problem"]
