"""U-ViT against its equations in PyTorch, its published sizes, and what it refuses.

The files are made by experiments/pretrained/reference_uvit.py.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.networks import UViT, build
from sde_diffusion.pretrained import safetensors
from sde_diffusion.pretrained.tensors import to_params

FOLDER = Path(__file__).parents[1] / "reference" / "pretrained" / "uvit"
SMALL = {"depth": 4, "features": 16, "num_heads": 2}
FORMS = {
    "label": UViT(**SMALL, num_classes=5, learned_null=("label",)),
    "text": UViT(**SMALL, text_features=6, last_conv=False),
}
NAMES = {"label_emb.weight": "ClassEmbedding_0.weight"}


def shapes_of(network, x, *cond):
    return jax.eval_shape(network.init, jax.random.key(0), x, jnp.ones(len(x)), *cond)["params"]


@pytest.mark.parametrize("form", FORMS)
def test_the_network_is_that_of_the_paper(form):
    network = FORMS[form]
    with np.load(FOLDER / f"{form}.npz") as arrays:
        told = dict(arrays)
    # Here a negative label is no class; the published networks have a number for it, the last.
    cond = np.where(told["cond"] == 5, -1, told["cond"]) if form == "label" else told["cond"]
    cond = jnp.asarray(cond) if form == "label" else {"text": cond}
    tensors = safetensors.read(FOLDER / f"{form}.safetensors")
    params = to_params(shapes_of(network, told["x"], cond), tensors, renames=NAMES)
    out = jax.jit(network.apply)({"params": params}, told["x"], told["t"], cond)
    assert float(np.max(np.abs(out - told["out"])) / np.max(np.abs(told["out"]))) < 1e-4


@pytest.mark.parametrize(
    ("size", "patch", "side", "channels", "classes", "millions"),
    [
        ("S", 2, 32, 3, None, 44),
        ("S_deep", 2, 32, 4, None, 58),
        ("M", 4, 64, 3, 1000, 131),
        ("L", 2, 32, 4, 1000, 287),
        ("H", 2, 32, 4, 1000, 501),
    ],
)
def test_the_published_sizes(size, patch, side, channels, classes, millions):
    # Bao et al. 2023, table 1
    null = ("label",) if classes else ()
    network = UViT(size, patch, num_classes=classes, learned_null=null)
    shapes = shapes_of(network, jnp.zeros((1, side, side, channels)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert round(count / 1e6) == millions


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "XL"}, "unknown size 'XL'"),
        ({"depth": 3}, "depth must be an even number from 2 on, got 3"),
        ({"learned_null": ("label",)}, "which the network does not take: set num_classes"),
    ],
)
def test_what_cannot_be_built_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        build("uvit", **fields)


def test_an_image_of_another_size_is_refused():
    network, t = UViT(**SMALL), jnp.ones(1)
    variables = {"params": shapes_of(network, jnp.zeros((1, 8, 8, 3)))}
    with pytest.raises(ValueError, match=r"37 tokens of an image of 12x12 .* made for 17"):
        jax.eval_shape(network.apply, variables, jnp.zeros((1, 12, 12, 3)), t)
    with pytest.raises(ValueError, match="cond must be a dict of text"):
        shapes_of(FORMS["text"], jnp.zeros((1, 8, 8, 3)))
