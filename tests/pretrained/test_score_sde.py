"""Networks and weights of score_sde, against outputs of that code."""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from sde_diffusion.pretrained.score_sde import build_network, load_params

REFERENCE = Path(__file__).parents[1] / "reference" / "score_sde"
ENTRIES = json.loads((REFERENCE / "networks.json").read_text())
VE, DDPM = ENTRIES["ncsnpp_ve_continuous"]["config"], ENTRIES["ddpm_vp"]["config"]
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize("name", ENTRIES)
def test_the_output_is_that_of_the_reference(name):
    figures = np.load(REFERENCE / f"{name}.npz")
    params = load_params(REFERENCE / f"{name}.npz")
    network = build_network(ENTRIES[name]["config"])
    y = jit(network.apply)({"params": params}, figures["x"], figures["t"])
    np.testing.assert_allclose(y, figures["y"], rtol=1e-4, atol=1e-5 * np.abs(figures["y"]).max())


@pytest.mark.parametrize("name", ENTRIES)
def test_the_tree_is_that_of_the_reference(name):
    figures = np.load(REFERENCE / f"{name}.npz")
    network = build_network(ENTRIES[name])
    tree = jax.eval_shape(network.init, jax.random.key(0), figures["x"], figures["t"])["params"]
    params = load_params(REFERENCE / f"{name}.npz")
    assert jax.tree.map(np.shape, tree) == jax.tree.map(np.shape, params)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_config_alone_gives_what_its_entry_does(name):
    assert build_network(ENTRIES[name]["config"]) == build_network(ENTRIES[name])


def test_what_the_reference_lacks_is_given_beside_the_config():
    network = build_network(VE, centered=True, dtype="bfloat16", num_classes=10)
    assert (network.centered, network.dtype, network.num_classes) == (True, "bfloat16", 10)


def test_names_are_read_in_any_case_as_the_reference_does():
    assert build_network({**VE, "resblock_type": "BigGAN"}) == build_network(VE)


def test_ddpm_ignores_the_fields_that_it_does_not_read():
    assert build_network({**DDPM, "embedding_type": "fourier", "fir": True}) == build_network(DDPM)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "ncsnv2"}, "unknown network of score_sde 'ncsnv2'"),
        ({"n_res_blocks": 4}, "'n_res_blocks'; did you mean 'num_res_blocks'"),
        ({"normalization": "InstanceNorm"}, "normalization: 'instancenorm' is not supported"),
        ({"conv_size": 5}, "conv_size: 5 is not supported"),
        ({"progressive": "residuals"}, "progressive 'residuals'; did you mean 'residual'"),
    ],
)
def test_a_config_that_cannot_be_built_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        build_network({**VE, **change})


def test_params_are_read_into_a_tree(tmp_path):
    kernel = np.ones((2, 3), np.float32)
    np.savez(tmp_path / "a.npz", **{"params/Dense_0/kernel": kernel, "x": kernel})
    params = load_params(tmp_path / "a.npz")
    np.testing.assert_array_equal(params["Dense_0"]["kernel"], kernel)
    assert set(params) == {"Dense_0"}


def test_a_file_without_params_is_an_error_that_names_it(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    with pytest.raises(ValueError, match=r"a\.npz: no array is named params/"):
        load_params(tmp_path / "a.npz")


def test_a_pickle_is_never_read(tmp_path):
    np.savez(tmp_path / "a.npz", **{"params/w": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match="allow_pickle"):
        load_params(tmp_path / "a.npz")
