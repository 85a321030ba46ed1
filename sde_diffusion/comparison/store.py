"""Rows on disk: results.json, from which a comparison resumes, and results.csv."""

import csv
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def identity(settings: Mapping[str, Any]) -> str:
    """A short hash of the settings of a row: equal settings have equal names."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def load(path: Path) -> list[Row]:
    """The rows of results.json, none if there is no such file; ValueError if it is damaged."""
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text())["rows"]
        if not all(isinstance(row["id"], str) for row in rows):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} is not the results of a comparison: choose another folder, or remove it"
        ) from None
    # The budget of an adaptive solver is None, not nan. Rows of earlier versions have no field
    # denoise_last; all of them denoised.
    return [
        {"denoise_last": True} | {k: v if k == "budget" else _of_json(v) for k, v in row.items()}
        for row in rows
    ]


def save(folder: Path, rows: Sequence[Row]) -> None:
    """Write results.json and results.csv atomically; nan becomes null, and inf a string."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = [{k: _to_json(v) for k, v in row.items()} for row in rows]
    _write(folder / "results.json", json.dumps({"rows": plain}, indent=1) + "\n")
    names = list(dict.fromkeys(name for row in rows for name in row))
    partial = folder / "results.csv.tmp"
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(plain)
    os.replace(partial, folder / "results.csv")


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".tmp")
    partial.write_text(text)
    os.replace(partial, path)


def _to_json(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def _of_json(value: Any) -> Any:
    if value is None:
        return math.nan
    return float(value) if value in ("inf", "-inf") else value
