"""Every tensor of the published full-size models, against diffusers' and transformers' tables.

They are made by experiments/pretrained/published_shapes.py. Nothing is computed here.
"""

import gzip
import json
from pathlib import Path

import jax
import pytest

from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import build, shapes
from sde_diffusion.pretrained.tensors import names_and_shapes, renamed

TABLE = Path(__file__).parents[1] / "reference" / "pretrained" / "published.json.gz"
PUBLISHED = json.loads(gzip.decompress(TABLE.read_bytes()))
PARTS = [(model, part) for model, parts in PUBLISHED.items() for part in parts]


@pytest.mark.parametrize(("model", "part"), PARTS)
def test_every_tensor_is_accounted_for(model, part):
    told = PUBLISHED[model][part]
    kind = KINDS[told["class"]]
    module = build(kind, told["config"], source=model)
    theirs = {
        name: jax.ShapeDtypeStruct(tuple(shape), "float32")
        for name, shape in told["tensors"].items()
    }
    theirs = {name: leaf.shape for name, leaf in renamed(theirs, kind.renames).items()}
    assert names_and_shapes(shapes(kind, module)) == theirs
