"""docs/data.md: its examples run, and it names every source and each of its fields."""

import contextlib
import inspect
import io
import re
from pathlib import Path

import numpy as np
import pytest
from files import pixels, write_files

from sde_diffusion.data import SOURCES

PAGE = (Path(__file__).parent.parent.parent / "docs" / "data.md").read_text()
WRITING, OWN, FEATURES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(example):
    printed, names = io.StringIO(), {"__name__": "docs"}
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "docs/data.md", "exec"), names)
    return names, printed.getvalue()


def test_the_example_that_writes_records_reads_them_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "birds", {f"jay/{i}.png": pixels(5)[i] for i in range(5)})
    write_files(tmp_path / "birds", {f"jay/{i}.txt": f"jay {i}" for i in range(5)})
    names, _ = run(WRITING)
    source, again = names["source"], names["again"]
    assert again.features == source.features
    for i in range(5):
        np.testing.assert_array_equal(again[i]["image"], source[i]["image"])
        assert again[i]["text"] == source[i]["text"]


def test_the_example_of_a_source_of_ones_own_gives_batches():
    assert run(OWN)[1] == "{'x': (128, 2), 'label': (128,), 'index': (128,)}\n"


def test_the_example_of_features_prints_those_of_the_digits():
    printed = run(FEATURES)[1]
    assert "Feature(shape=(8, 8, 1), dtype='uint8', low=0, high=16" in printed
    assert "('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')" in printed


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_in_the_table_with_its_required_fields(name):
    row = re.search(rf"^\| `{name}` \|.*\|(.*)\|$", PAGE, re.MULTILINE)
    assert row, name
    parameters = inspect.signature(SOURCES[name]).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty]
    assert re.findall(r"`(\w+)`", row[1]) == required


@pytest.mark.parametrize("name", ["folder", "webdataset"])
def test_every_field_of_the_sources_of_images_is_told(name):
    for field in inspect.signature(SOURCES[name]).parameters:
        assert re.search(rf"`{field}[`=]", PAGE), field
