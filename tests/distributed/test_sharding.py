"""The rule of what is split over `fsdp`, and what a training step sends between devices."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from sde_diffusion import distributed, training
from sde_diffusion.distributed import make_mesh
from sde_diffusion.networks import MLP, NCSNpp
from sde_diffusion.objectives import of_loss

ADAM = optax.adam(1e-3)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((64, 4096), P("fsdp")),  # the last one if there is no other
        ((63, 4096), P(None, "fsdp")),
        ((4096, 64), P("fsdp")),
        ((8, 64, 128), P(None, "fsdp")),  # the largest of the others
        ((3, 3, 128, 128), P(None, None, "fsdp")),
        ((8, 4099), P("fsdp")),  # one that divides
        ((4099, 9), P()),  # none divides
        ((128,), P()),  # small
        ((), P()),
    ],
)
def test_a_leaf_is_split_along_the_largest_dimension_before_the_last_that_divides(shape, spec):
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert distributed.state_shardings(make_mesh(2, 4), leaf).spec == spec


def test_without_fsdp_nothing_is_split():
    leaf = jax.ShapeDtypeStruct((4096, 4096), jnp.float32)
    assert distributed.state_shardings(make_mesh(), leaf).spec == P()


def test_a_batch_is_spread_sample_by_sample_in_its_order():
    mesh = make_mesh(2, 4)
    batches = np.arange(2 * 16).reshape(2, 16, 1)
    placed = distributed.place_batches(mesh, {"x": batches})["x"]
    for i, device in enumerate(mesh.devices.flat):
        (shard,) = [shard for shard in placed.addressable_shards if shard.device == device]
        np.testing.assert_array_equal(shard.data, batches[:, 2 * i : 2 * i + 2])


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    with pytest.raises(ValueError, match="batch_size: 12 is not a multiple of the 8 devices"):
        distributed.place_batches(make_mesh(), {"x": np.zeros((1, 12, 2))})


MLP_OF_POINTS = MLP(features=64, num_blocks=2), (16,)
UNET_OF_IMAGES = NCSNpp(nf=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,)), (16, 16, 3)


def compiled_step(mesh, batch_size, problem=MLP_OF_POINTS):
    """(abstract state, text of the compiled training step)."""
    network, event = problem

    def init_params(key):
        return network.init(key, jnp.zeros((1, *event)), jnp.ones(1))["params"]

    def loss_fn(params, key, batch):
        noise = jax.random.normal(key, batch["x"].shape)
        told = network.apply({"params": params}, batch["x"] + noise, jnp.ones(len(noise)))
        return jnp.sum((told - noise) ** 2, axis=tuple(range(1, noise.ndim)))

    recipe = training.Recipe(init_params, of_loss(loss_fn), ADAM, (0.99,))
    step, state, _ = training.step_on_mesh(mesh, recipe)
    batches = np.zeros((1, batch_size, *event), np.float32)
    placed = distributed.place_batches(mesh, {"x": batches})
    return state, step.lower(state, jax.random.key(0), placed).compile().as_text()


def sent(text):
    """{kind of collective: elements of its results, in all} of a compiled program's text."""
    totals = {}
    pattern = r"= (\(.*?\)|\S+) (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\("
    for results, kind in re.findall(pattern, text):
        for sizes in re.findall(r"\w+\[([\d,]*)\]", results):
            count = np.prod([int(n) for n in sizes.split(",") if n], dtype=int)
            totals[kind] = totals.get(kind, 0) + int(count)
    return totals


def test_a_data_parallel_step_sends_the_gradients_once_and_nothing_that_grows_with_the_batch():
    state, text = compiled_step(make_mesh(), 64)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    totals = sent(text)
    assert totals.keys() == {"all-reduce"}
    assert parameters <= totals["all-reduce"] <= parameters + 2  # and the loss
    assert sent(compiled_step(make_mesh(), 512)[1]) == totals


def test_a_step_with_a_split_state_sends_nothing_that_grows_with_the_batch():
    state, text = compiled_step(make_mesh(fsdp=8), 64)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    totals = sent(text)
    assert totals["all-gather"] <= 2 * parameters  # forward, and again backward at most
    assert sent(compiled_step(make_mesh(fsdp=8), 512)[1]) == totals


def test_parameters_gathered_in_bfloat16_change_nothing_for_a_network_that_computes_in_it():
    network, event = MLP(features=64, num_blocks=1, dtype="bfloat16"), (16,)

    def init_params(key):
        return network.init(key, jnp.zeros((1, *event)), jnp.ones(1))["params"]

    def loss_fn(params, key, batch):
        told = network.apply({"params": params}, batch["x"], jnp.ones(len(batch["x"])))
        return jnp.sum((told - jax.random.normal(key, event)) ** 2, axis=-1)

    mesh = make_mesh(fsdp=8)
    rule = partial(distributed.state_shardings, mesh)
    batches = distributed.place_batches(mesh, {"x": np.ones((2, 16, *event), np.float32)})

    def trained(dtype):
        options = training.StepOptions(gather_dtype=dtype)
        recipe = training.Recipe(init_params, of_loss(loss_fn), ADAM, (), options=options)
        state = training.init_state(recipe, jax.random.key(0), shardings=rule)
        return training.step_on_mesh(mesh, recipe).step(state, jax.random.key(1), batches)

    state, metrics = trained("float32")
    again, metrics_again = trained("bfloat16")
    np.testing.assert_allclose(metrics_again["loss"], metrics["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics_again["grad_norm"], metrics["grad_norm"], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_data_parallel_step_of_a_u_net_sends_the_gradients_once_and_nothing_more():
    mesh = make_mesh()
    state, text = compiled_step(mesh, 8, UNET_OF_IMAGES)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    totals = sent(text)
    assert 0.99 * parameters < totals["all-reduce"] <= parameters + 2
    assert sent(compiled_step(mesh, 32, UNET_OF_IMAGES)[1]) == totals
