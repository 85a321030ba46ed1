"""Tensors as PyTorch names and lays them out, against products and convolutions by definition."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sde_diffusion.networks.layers import Conv, Dense
from sde_diffusion.networks.scan import scanned
from sde_diffusion.pretrained import folder, safetensors, tensors


class Layer(nn.Module):
    @nn.compact
    def __call__(self, h):
        return Dense(3, name="fc.0")(nn.LayerNorm(name="norm")(h)), None


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = Conv(3, name="conv_in")(x)
        layers = scanned(
            Layer, 2, remat="none", dtype="float32", initializing=self.is_initializing()
        )
        h, _ = layers(name="scanned_blocks")(h)
        return h + nn.Embed(5, 3, name="token.embedding")(jnp.zeros((), int))


X = jnp.ones((1, 4, 4, 2))
SHAPES = jax.eval_shape(Network().init, jax.random.key(0), X)["params"]
THEIRS = {
    "conv_in.weight": (3, 2, 3, 3),
    "conv_in.bias": (3,),
    "token.embedding.weight": (5, 3),
    **{f"blocks.{i}.norm.{leaf}": (3,) for i in range(2) for leaf in ("weight", "bias")},
    **{f"blocks.{i}.fc.0.weight": (3, 3) for i in range(2)},
    **{f"blocks.{i}.fc.0.bias": (3,) for i in range(2)},
}


@pytest.fixture
def theirs():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in THEIRS.items()}


def test_names_and_shapes_are_theirs():
    assert tensors.names_and_shapes(SHAPES) == THEIRS


def test_a_tensor_is_used_where_its_name_says(theirs):
    params = tensors.to_params(SHAPES, theirs)
    kernel = params["conv_in"]["kernel"]
    assert kernel[1, 2, 0, 2] == theirs["conv_in.weight"][2, 0, 1, 2]
    dense = params["scanned_blocks"]["fc.0"]["kernel"]
    assert dense[1, 2, 0] == theirs["blocks.1.fc.0.weight"][0, 2]
    np.testing.assert_array_equal(
        params["scanned_blocks"]["norm"]["scale"][1], theirs["blocks.1.norm.weight"]
    )


def test_a_round_trip_changes_nothing(theirs, tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.write(path, tensors.to_tensors(tensors.to_params(SHAPES, theirs)))
    back = safetensors.read(path)
    assert set(back) == set(theirs)
    for name, array in theirs.items():
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_parameters_have_the_dtype_asked_for(theirs, dtype):
    half = {name: array.astype(np.float16) for name, array in theirs.items()}
    params = tensors.to_params(SHAPES, half, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    assert params["conv_in"]["bias"][0] == half["conv_in.bias"][0].astype(dtype)


def test_a_1x1_convolution_is_a_dense_layer(theirs):
    theirs["blocks.0.fc.0.weight"] = theirs["blocks.0.fc.0.weight"][:, :, None, None]
    params = tensors.to_params(SHAPES, theirs)
    assert params["scanned_blocks"]["fc.0"]["kernel"].shape == (2, 3, 3)


def test_a_table_renames_and_drops(theirs):
    theirs["old.1.lin.bias"] = theirs.pop("blocks.1.fc.0.bias")
    theirs["position_ids"] = np.arange(3)
    table = {"old.{i}.lin.{leaf}": "blocks.{i}.fc.0.{leaf}", "position_ids": None}
    params = tensors.to_params(SHAPES, theirs, renames=table)
    np.testing.assert_array_equal(
        params["scanned_blocks"]["fc.0"]["bias"][1], theirs["old.1.lin.bias"]
    )


def test_what_is_missing_and_left_over_is_named_with_its_shape(theirs):
    theirs["blocks.2.norm.bias"] = theirs.pop("blocks.1.norm.bias")
    message = (
        r"unet: 1 tensor is missing: blocks.1.norm.bias \(3,\); "
        r"1 tensor is not used: blocks.2.norm.bias \(3,\)"
    )
    with pytest.raises(ValueError, match=message):
        tensors.to_params(SHAPES, theirs, source="unet")


def test_another_shape_is_told(theirs):
    theirs["conv_in.weight"] = np.zeros((3, 4, 3, 3), np.float32)
    message = r"conv_in.weight has the shape \(3, 4, 3, 3\), but the config needs \(3, 2, 3, 3\)"
    with pytest.raises(ValueError, match=message):
        tensors.to_params(SHAPES, theirs)


def split(path, theirs, variant=""):
    """Write two shards and their index."""
    names = list(theirs)
    shards = {f"model{variant}-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in shards.items():
        safetensors.write(path / file, {name: theirs[name] for name in part})
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (path / f"model.safetensors.index{variant}.json").write_text(json.dumps(index))


def test_a_sharded_folder(theirs, tmp_path):
    split(tmp_path, theirs)
    read = folder.read_weights(tmp_path)
    assert {name: array.shape for name, array in read.items()} == THEIRS
    safetensors.write(
        tmp_path / "model-00001-of-00002.safetensors", {"conv_in.bias": theirs["conv_in.bias"]}
    )
    with pytest.raises(ValueError, match=r"has no .*, which .* names"):
        folder.read_weights(tmp_path)


def test_variants(theirs, tmp_path):
    split(tmp_path, theirs, ".fp16")
    assert set(folder.read_weights(tmp_path)) == set(THEIRS)
    assert set(folder.read_weights(tmp_path, "fp16")) == set(THEIRS)
    safetensors.write(tmp_path / "model.safetensors", {"x": theirs["conv_in.bias"]})
    assert set(folder.read_weights(tmp_path)) == {"x"}
    assert set(folder.read_weights(tmp_path, "fp16")) == set(THEIRS)
    with pytest.raises(FileNotFoundError, match=r"no weights of variant ema \(there are:.*fp16"):
        folder.read_weights(tmp_path, "ema")


def test_pickles_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        folder.read_weights(tmp_path / "x")
    with pytest.raises(FileNotFoundError, match=r"no file \*.safetensors"):
        folder.read_weights(tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is a pickle.*convert it to safetensors"):
        folder.read_weights(tmp_path)
