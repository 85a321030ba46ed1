"""The JSON file of a fitted solver: only numbers and names, no code."""

import dataclasses
import hashlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from sde_diffusion import samplers
from sde_diffusion.fitting.search import Fit
from sde_diffusion.samplers import Fitted, FittedGrid, Solver
from sde_diffusion.sdes import SDE

FORMAT, VERSION = "sde-diffusion fitted solver", 1
FIELDS = ("format", "version", "fitted_on", "sde", "nfe", "rms_error", "solver", "times")


def save(path: str | Path, fit: Fit, sde: SDE, fitted_on: str) -> None:
    """Write the result of `fit`; `fitted_on` names the problem or the model."""
    record = {
        "format": FORMAT,
        "version": VERSION,
        "fitted_on": fitted_on,
        "sde": _told(sde),
        "nfe": fit.nfe,
        "rms_error": {"start": fit.start, "of_start": fit.start_error, "fitted": fit.error},
        "solver": _solver_told(fit.solver),
        "times": list(fit.solver.times or ()),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}"
        for key, value in record.items()
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def load(path: str | Path, sde: SDE) -> Solver:
    """The solver that `save` wrote, which has its own grid.

    Raises FileNotFoundError, and ValueError that names the file and the error in it, also if the
    solver was fitted for another SDE.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"fitted solver {path} does not exist")
    try:
        return _read(json.loads(path.read_text()), sde)
    except json.JSONDecodeError as error:
        raise ValueError(f"fitted solver {path} is not JSON: {error}") from error
    except ValueError as error:
        raise ValueError(f"fitted solver {path}: {error}") from error


def _read(record: Any, sde: SDE) -> Solver:
    _require(isinstance(record, dict) and record.get("format") == FORMAT, "format", repr(FORMAT))
    _require(record.get("version") == VERSION, "version", f"{VERSION}, the one known here")
    for field in FIELDS:
        _require(field in record, field, "there")
    if record["sde"] != _told(sde):
        raise ValueError(f"it was fitted for the SDE {record['sde']}, but the SDE is {_told(sde)}")
    times, solver = record["times"], record["solver"]
    _require(_are_numbers(times) and len(times) > 1, "times", "two numbers or more")
    falls = all(s < t for t, s in itertools.pairwise(times))
    _require(falls and times[-1] >= 0.0, "times", "decreasing numbers, none below 0")
    _require(isinstance(solver, dict), "solver", "an object")
    if "name" in solver:
        fields = solver.get("fields")
        _require(isinstance(fields, dict), "solver.fields", "an object")
        return FittedGrid(samplers.named(str(solver["name"]), **fields), tuple(times))
    a, c, steps = solver.get("a"), solver.get("c"), len(times) - 1
    _require(_are_numbers(a) and len(a) == steps, "solver.a", f"{steps} numbers, one a step")
    rows = isinstance(c, list) and len(c) == steps and all(map(_are_numbers, c))
    rows = rows and [len(row) for row in c] == list(range(1, steps + 1))
    _require(rows, "solver.c", f"rows of 1, 2, ..., {steps} numbers")
    return Fitted(tuple(times), tuple(a), tuple(map(tuple, c)))


def _require(right: bool, field: str, what: str) -> None:
    if not right:
        raise ValueError(f"field {field!r} must be {what}")


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(number) in (int, float) and math.isfinite(number) for number in value
    )


def _told(sde: SDE) -> dict[str, Any]:
    """The SDE's class and fields as JSON values; a table is stored as the digest of its values."""

    def number(value: Any) -> float | str:
        if np.ndim(value) == 0:
            return float(value)
        return hashlib.sha256(np.asarray(value, "<f4").tobytes()).hexdigest()

    return {"kind": type(sde).__name__, **{name: number(v) for name, v in _fields(sde).items()}}


def _solver_told(solver: Solver) -> dict[str, Any]:
    if isinstance(solver, Fitted):
        return {"a": list(solver.a), "c": [list(row) for row in solver.c]}
    assert isinstance(solver, FittedGrid)
    names = {kind: name for name, kind in (samplers.SOLVERS | samplers.MAPS).items()}
    name = names.get(type(solver.solver))
    if name is None:
        raise ValueError(
            f"{type(solver.solver).__name__} is not in samplers.SOLVERS, as a file needs"
        )
    return {"name": name, "fields": _fields(solver.solver)}


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
