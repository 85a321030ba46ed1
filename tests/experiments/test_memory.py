"""experiments/pods/memory.py: a table of what a device holds."""

import runpy
from functools import partial
from pathlib import Path

import jax
import pytest

from sde_diffusion.planning import named

ROOT = Path(__file__).parents[2]
MEMORY = runpy.run_path(str(ROOT / "experiments" / "pods" / "memory.py"))
GIB = 2**30


def test_a_row_tells_the_state_of_all_devices_and_the_layers_that_fill_the_temporaries():
    row = {"topology": "toy", "dtype": "float32", "fsdp": 4, "kind": "train"}
    line = MEMORY["table"]([row | {"state": 2 * GIB, "temporaries": GIB}], layer=GIB // 4)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["toy", "float32", "4", "train", "2.00", "8.0", "1.00", "4.0"]


def test_a_row_is_that_of_the_network_split_over_so_many_devices(monkeypatch):
    small = MEMORY["NETWORK"].clone(depth=2, features=64, num_heads=1, num_classes=2)
    monkeypatch.setitem(MEMORY["row"].__globals__, "NETWORK", small)
    params = jax.eval_shape(partial(MEMORY["init_params"], small), jax.random.key(0))
    layers = 2 * MEMORY["layer_bytes"]()
    others = sum(4 * leaf.size for leaf in jax.tree.leaves(params)) - layers
    row = MEMORY["row"]("sample", named("cpu:8"), "float32", 8)
    images = 4 * 4 * 32 * 32 * MEMORY["PER_DEVICE"]
    assert row["state"] == pytest.approx(layers / 8 + others + images, rel=0.05)
