"""experiments/pods/scaling.py: a table of plans over topologies."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCALING = runpy.run_path(str(ROOT / "experiments" / "pods" / "scaling.py"))


def planned(chips, step, slices=0, **changes):
    return {
        "topology": f"toy:{chips}",
        "chip": "toy",
        "chips": chips,
        "batch_size": 64 * chips,
        "peak": 2**30,
        "cycles": 3_000_000,
        "collectives": [{"sent": 2e6}, {"sent": 1e6}],
        "estimate_seconds": step,
        "network_seconds": 0.001,
        "between_slices_seconds": 0.0005 * slices,
        "images_per_second": 64 * chips / step,
        "compile_seconds": 7.0,
    } | changes


def cells(line):
    return [cell.strip() for cell in line.strip("|\n").split("|")]


def test_growth_is_relative_to_the_first_row_of_the_same_kind_of_chip():
    rows = [planned(4, 0.01), planned(16, 0.0105), planned(4, 0.02, chip="other")]
    lines = [cells(line) for line in SCALING["table"](rows).splitlines()]
    assert [line[8] for line in lines] == ["+0.0%", "+5.0%", "+0.0%"]
    assert lines[0][3:8] == ["1.00 GiB", "3.00 M", "3 MB", "10.0%", "10.00 ms"]


def test_messages_between_slices_are_a_part_of_the_step():
    (line,) = SCALING["table"]([planned(8, 0.01, slices=2)]).splitlines()
    assert cells(line)[6] == "20.0%"


def test_what_does_not_fit_has_a_row_of_its_own():
    whole, full = planned(4, 0.01), {**planned(16, 0.01)}
    del full["peak"]
    header = SCALING["HEADER"].splitlines()[-2]
    for line in SCALING["table"]([whole, full]).splitlines():
        assert line.count("|") == header.count("|")


@pytest.mark.slow
def test_every_topology_has_its_batch_and_the_command_stands_above_the_table(tmp_path):
    out = tmp_path / "scaling.md"
    config = str(ROOT / "configs" / "mixture2d.py")
    arguments = ["--config", config, "--per-chip", "32", "--topologies", "cpu:1,cpu:4"]
    SCALING["main"]([*arguments, "--out", str(out), "--config.network.features=16"])
    text = out.read_text()
    assert "--per-chip 32" in text
    assert "--config.network.features=16" in text
    one, four = (cells(line) for line in text.splitlines() if line.startswith("| cpu:"))
    assert (one[:3], four[:3]) == (["cpu:1", "1", "32"], ["cpu:4", "4", "128"])
    assert one[5] == "0 MB"
