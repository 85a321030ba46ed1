"""Weights of other projects, read as data."""
