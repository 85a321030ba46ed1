"""The configs of diffusion transformers build at full size, and take steps at toy size."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.config import build, load
from sde_diffusion.config.check import problems, warnings
from sde_diffusion.data import Feature, Features
from sde_diffusion.training import init_state, make_step

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "configs" / "dit").glob("*.py"))
MILLIONS = {"b2": 130, "l2": 458, "xl2": 674}


def config_of(name, **overrides):
    return load(ROOT / "configs" / "dit" / f"{name}.py", overrides)


def features_of(size, classes=1000):
    names = tuple(map(str, range(classes)))
    return Features(
        {
            "image": Feature((size, size, 4), "float32", -1.0, 1.0),
            "label": Feature((), "int32", classes=names),
        }
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_config_has_the_published_size_and_nothing_wrong_with_it(name):
    config = config_of(name)
    features = features_of(64 if "512" in name else 32)
    assert [*problems(config, features), *warnings(config, features)] == []
    build.recipe(config, features), build.run(config), build.solver(config)
    assert len(build.grid(config)) == config.sampling.steps + 1
    abstract = jax.eval_shape(build.init_params(config, features.event.shape), jax.random.key(0))
    millions = sum(leaf.size for leaf in jax.tree.leaves(abstract)) / 1e6
    assert millions == pytest.approx(MILLIONS[name.rpartition("_")[2]], rel=0.01)


@pytest.mark.parametrize("name", ["imagenet256_xl2", "sit_imagenet256_xl2"])
def test_two_steps_at_toy_size_have_a_finite_loss_and_move_the_network(name):
    toy = {"depth": 1, "features": 16, "num_heads": 2, "num_classes": 3}
    changes = {f"network.{field}": str(value) for field, value in toy.items()}
    config, features = config_of(name, **changes), features_of(4, classes=3)
    recipe = build.recipe(config, features)
    rng = np.random.default_rng(0)
    batches = {
        "image": rng.standard_normal((2, 4, *features.event.shape)).astype(np.float32),
        "label": jnp.arange(8).reshape(2, 4) % 3,
    }
    state = init_state(recipe, jax.random.key(0))
    before = np.array(state.params["last"]["output"]["kernel"])
    state, metrics = make_step(recipe)(state, jax.random.key(1), batches)
    assert np.all(np.isfinite(metrics["loss"]))
    assert np.any(state.params["last"]["output"]["kernel"] != before)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_gives_the_command(name):
    text = (ROOT / "configs" / "dit" / f"{name}.py").read_text()
    assert f"sde-diffusion train --config configs/dit/{name}.py" in text
