"""The configs of text-to-image models build at full size, and take steps at toy size."""

from pathlib import Path

import jax
import numpy as np
import pytest

from sde_diffusion.cli import plan
from sde_diffusion.config import build, load
from sde_diffusion.config.check import problems
from sde_diffusion.training import init_state, make_step
from sde_diffusion.tree_names import named

FOLDER = Path(__file__).parents[2] / "configs" / "text_to_image"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
# Millions of parameters, and the shape of the latents.
PUBLISHED = {
    "sdxl_256": (2567, (32, 32, 4)),
    "sd3_medium_256": (2084, (32, 32, 16)),
    "flux_1024": (11901, (128, 128, 16)),
}
TOYS = {
    "sdxl_256": {
        "block_out_channels": "(8,)",
        "down_block_types": "('CrossAttnDownBlock2D',)",
        "up_block_types": "('CrossAttnUpBlock2D',)",
        "transformer_layers_per_block": "(1,)",
        "attention_head_dim": "(2,)",
        "layers_per_block": "1",
        "norm_num_groups": "4",
        "cross_attention_dim": "8",
        "addition_time_embed_dim": "2",
        "projection_class_embeddings_input_dim": "20",
    },
    "sd3_medium_256": {
        "num_layers": "2",
        "attention_head_dim": "4",
        "num_attention_heads": "2",
        "caption_projection_dim": "8",
        "joint_attention_dim": "8",
        "pooled_projection_dim": "8",
        "pos_embed_max_size": "8",
        "sample_size": "16",
    },
    "flux_1024": {
        "num_layers": "1",
        "num_single_layers": "1",
        "attention_head_dim": "8",
        "num_attention_heads": "2",
        "axes_dims_rope": "(4, 2, 2)",
        "joint_attention_dim": "8",
        "pooled_projection_dim": "8",
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_has_the_published_size_and_nothing_wrong_with_it(name):
    millions, event = PUBLISHED[name]
    config = load(FOLDER / f"{name}.py")
    features = plan.features_of(config, event)
    assert [*problems(config, features)] == []
    build.run(config), build.solver(config)
    assert len(build.grid(config)) == config.sampling.steps + 1
    abstract = jax.eval_shape(build.init_params(config, event), jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(abstract))
    assert size / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_at_toy_size_have_a_finite_loss_and_move_the_network(name):
    event = (8, 8, PUBLISHED[name][1][-1])
    toy = {f"network.{field}": value for field, value in TOYS[name].items()}
    overrides = toy | {"data.tokens": "3", "training.batch_size": "4", "optim.warmup": "0"}
    config = load(FOLDER / f"{name}.py", overrides)
    features = plan.features_of(config, event)
    recipe = build.recipe(config, features)
    generator = np.random.default_rng(0)
    batches = {
        entry: np.abs(generator.standard_normal((2, 4, *features[entry].shape)), dtype=np.float32)
        for entry in build.record_names(config, features)
    }
    state = init_state(recipe, jax.random.key(0))
    before = {k: np.array(leaf) for k, leaf in named(state.params).items()}
    state, metrics = make_step(recipe)(state, jax.random.key(1), batches)
    assert np.all(np.isfinite(metrics["loss"]))
    moved = [key for key, leaf in named(state.params).items() if np.any(leaf != before[key])]
    # The positions of SD3 take no gradient; the first layers wait for zeros to move.
    assert len(moved) > len(before) // 3


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_gives_the_commands(name):
    text = (FOLDER / f"{name}.py").read_text()
    for command in ("plan", "train"):
        assert f"sde-diffusion {command} --config configs/text_to_image/{name}.py" in text
