"""The configs of published few-step models build at full size, and take steps at toy size."""

from pathlib import Path

import jax
import numpy as np
import pytest

from sde_diffusion.config import build, load
from sde_diffusion.config.check import check, problems, warnings
from sde_diffusion.data import Feature, Features
from sde_diffusion.training import init_state, make_step

ROOT = Path(__file__).parents[2]
MILLIONS = {
    "edm_cifar10": 56,
    "ect_cifar10": 56,
    "scm_cifar10": 56,
    "meanflow_cifar10": 56,
    "meanflow_imagenet256_b4": 131,
}
NAMES = sorted(path.stem for path in (ROOT / "configs" / "few_steps").glob("*.py"))


def config_of(name, **overrides):
    return load(ROOT / "configs" / "few_steps" / f"{name}.py", overrides)


def features_of(name, size=None):
    if "cifar10" in name:
        return Features({"image": Feature((size or 32, size or 32, 3), "uint8", 0, 255)})
    names = tuple(map(str, range(1000)))
    latents = Feature((size or 32, size or 32, 4), "float32", -1.0, 1.0)
    return Features({"image": latents, "label": Feature((), "int32", classes=names)})


def test_every_config_is_in_this_test():
    assert MILLIONS.keys() == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_has_the_published_size_and_nothing_wrong_with_it(name):
    config, features = config_of(name), features_of(name)
    assert [*problems(config, features), *warnings(config, features)] == []
    build.recipe(config, features), build.run(config), build.solver(config)
    assert len(build.grid(config)) == config.sampling.steps + 1
    abstract = jax.eval_shape(build.init_params(config, features.event.shape), jax.random.key(0))
    millions = sum(leaf.size for leaf in jax.tree.leaves(abstract)) / 1e6
    assert millions == pytest.approx(MILLIONS[name], rel=0.03)


def toy(name):
    fields = {"nf": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": ()}
    changes = {f"network.{field}": str(value) for field, value in fields.items()}
    return config_of(name, **changes), features_of(name, 4)


@pytest.mark.parametrize("name", ["ect_cifar10", "scm_cifar10"])
def test_the_objective_is_traced_at_toy_size(name):
    check(*toy(name))  # raises if not


def test_a_step_at_toy_size_has_a_finite_loss_and_moves_the_network():
    config, features = toy("meanflow_cifar10")
    recipe = build.recipe(config, features)
    images = np.random.default_rng(0).integers(0, 256, (2, 4, *features.event.shape))
    state = init_state(recipe, jax.random.key(0))
    before = jax.tree.map(np.array, state.params)
    batches = {"image": images.astype(np.uint8)}  # two steps: the learning rate is 0 at first
    state, metrics = make_step(recipe)(state, jax.random.key(1), batches)
    assert np.all(np.isfinite(metrics["loss"]))
    after = jax.tree.leaves(state.params)
    assert any(np.any(a != b) for a, b in zip(after, jax.tree.leaves(before), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_gives_the_command(name):
    text = (ROOT / "configs" / "few_steps" / f"{name}.py").read_text()
    assert f"sde-diffusion train --config configs/few_steps/{name}.py" in text
