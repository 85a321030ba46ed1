"""The training step compiled for TPUs: the messages that it sends, and their types."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from sde_diffusion import training
from sde_diffusion.distributed import make_mesh
from sde_diffusion.layerwise import over
from sde_diffusion.networks import MLP
from sde_diffusion.networks.attention import attention, chosen
from sde_diffusion.objectives import of_loss
from sde_diffusion.planning import compile_program, lower_training_step, named, read

pytest.importorskip("libtpu", reason="the TPU's compiler, of the extra tpu, is not installed")

EVENT = (16,)
NETWORK = MLP(features=128, num_blocks=1, dtype="bfloat16")


def init_params(key):
    return NETWORK.init(key, jnp.zeros((1, *EVENT)), jnp.ones(1))["params"]


def loss_fn(params, key, batch):
    told = NETWORK.apply({"params": params}, batch["x"], jnp.ones(len(batch["x"])))
    return jnp.sum((told - jax.random.normal(key, EVENT)) ** 2, axis=-1)


@functools.cache
def compiled_step(batch_size, topology="v5e:2x2"):
    """The text of the step on chips that keep a quarter of the state each."""
    lowered = lower_training_step(
        make_mesh(-1, 4, devices=named(topology).devices),
        {"x": jax.ShapeDtypeStruct((batch_size, *EVENT), jnp.float32)},
        training.Recipe(
            init_params,
            of_loss(loss_fn),
            training.make_optimizer("adam", learning_rate=1e-3, clip_norm=1.0),
            (0.99,),
            options=training.StepOptions(gather_dtype="bfloat16"),
        ),
    )
    return lowered.compile().as_text()


def collectives(text):
    """The results' types and the kind of every collective, sorted."""
    pattern = r"= (\(.*?\)|\S+) (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\("
    found = re.findall(pattern, text)
    return sorted((kind, re.findall(r"\w+\[[\d,]*\]", results)) for results, kind in found)


@pytest.mark.slow
def test_split_parameters_travel_in_bfloat16():
    leaves = jax.tree.leaves(jax.eval_shape(init_params, jax.random.key(0)))
    split = {str(list(leaf.shape)).replace(" ", "") for leaf in leaves if leaf.size >= 2**12}
    gathered = [types for kind, types in collectives(compiled_step(64)) if kind == "all-gather"]
    assert {f"bf16{shape}" for shape in split} == {kind for types in gathered for kind in types}


@pytest.mark.slow
def test_messages_do_not_grow_with_the_batch_and_stay_whole():
    small, large = compiled_step(64), compiled_step(256)
    assert collectives(small) == collectives(large)
    assert " while(" not in small


@pytest.mark.slow
def test_only_each_chips_part_of_the_gradients_goes_between_slices():
    found = read.costs(compiled_step(64, "2xv5e:2x2"), 8, 0.0, 0.0)["collectives"]
    leaves = jax.tree.leaves(jax.eval_shape(init_params, jax.random.key(0)))
    split = sum(leaf.size for leaf in leaves if leaf.size >= 2**12)
    whole = sum(leaf.size for leaf in leaves if leaf.size < 2**12)
    (far,) = [each for each in found if each.between_slices]
    assert far.kind == "all-reduce"
    assert far.bytes == pytest.approx(4 * (split / 4 + whole), rel=0.05)  # in whole tiles


@pytest.mark.slow
def test_long_attention_runs_in_a_kernel_on_each_chips_samples_and_stores_no_logits():
    mesh = make_mesh(devices=named("v5e:2x2").devices)
    by_sample = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    batch, length, heads, features = 4, 1100, 2, 64
    shape = (batch, length, heads, features)
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=by_sample)

    def total(q, k, v):
        return jnp.sum(attention(q, k, v).astype(jnp.float32))

    with over(mesh), chosen() as found:
        step = jax.jit(jax.grad(total, argnums=(0, 1, 2)), in_shardings=(by_sample,) * 3)
        program = compile_program(step.lower(x, x, x), 4)
    assert found == {(length, length, "flash")}
    logits = 4 * heads * length**2  # bytes in float32, of the sample of a chip
    assert program.temporaries < logits
    # Three kernels: two products forward, and five and four for the gradients, of filled blocks.
    filled = 1152
    product = 2.0 * heads * filled**2 * features
    kernels = [each for each in program.kernels if each.flops]
    assert sum(each.count * each.flops for each in kernels) == pytest.approx(9 * product, rel=0.3)
