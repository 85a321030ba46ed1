"""Every published configuration builds, with the reference's parameters."""

import functools
import json
from pathlib import Path

import jax
import pytest
from flax.traverse_util import flatten_dict

from sde_diffusion.config import build, load
from sde_diffusion.config.check import problems, warnings
from sde_diffusion.data import Feature, Features

ROOT = Path(__file__).parents[2]
PUBLISHED = json.loads((ROOT / "tests/reference/score_sde/param_shapes.json").read_text())
published = pytest.mark.parametrize("name", PUBLISHED)


@functools.cache
def config_of(name):
    return load(ROOT / "configs" / f"{name}.py")


def image_size(name):
    if "cifar10" in name:
        return 32
    if name == "ve/celeba_ncsnpp":
        return 64
    return 1024 if name in ("ve/celebahq_ncsnpp_continuous", "ve/ffhq_ncsnpp_continuous") else 256


@published
def test_the_parameters_are_those_of_the_reference(name):
    size = image_size(name)
    init = build.init_params(config_of(name), (size, size, 3))
    tree = jax.eval_shape(init, jax.random.key(0))
    shapes = {"/".join(path): list(leaf.shape) for path, leaf in flatten_dict(tree).items()}
    assert shapes == PUBLISHED[name]["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == PUBLISHED[name]["count"]


@published
def test_everything_else_builds(name):
    config, size = config_of(name), image_size(name)
    features = Features({"image": Feature((size, size, 3), "uint8", 0, 255)})
    assert list(problems(config, features)) == []
    assert list(warnings(config, features)) == []
    build.recipe(config, features), build.run(config)
    build.solver(config)
    assert len(build.grid(config)) == config.sampling.steps + 1


@published
def test_the_network_and_the_sde_agree(name):
    config = config_of(name)
    assert config.network.centered == (config.data.range == (-1.0, 1.0))
    assert config.network.scale_by_sigma == (config.sde.name == "ve")
    if config.sde.name == "ve":
        assert config.network.sigma_max == config.sde.sigma_max
        assert config.network.sigma_min == config.sde.sigma_min


@published
def test_the_ends_of_time_are_those_of_the_reference(name):
    # score_sde trains and has its likelihoods from 1e-5 on; run_lib.py says where samplers stop.
    config = config_of(name)
    assert build.sde(config).t_min == 1e-5
    stops = 1e-5 if name.startswith("ve/") else 1e-3
    assert float(build.grid(config)[-1]) == pytest.approx(stops)


@published
def test_the_docstring_gives_the_command(name):
    text = (ROOT / "configs" / f"{name}.py").read_text()
    assert f"sde-diffusion train --config configs/{name}.py" in text
