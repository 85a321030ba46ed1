"""Comparing solvers: problems, errors taken apart, and the report."""
