"""Training is the same run on one device, on eight, and with its state split over them."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problem import RECIPE, WIDTH

from sde_diffusion import distributed, training

POINTS = np.random.default_rng(0).normal(size=(5, 16, 24)).astype(np.float32)


def prepare(mesh, batches=POINTS):
    rule = partial(distributed.state_shardings, mesh)
    state = training.init_state(RECIPE, jax.random.key(0), shardings=rule)
    step = training.step_on_mesh(mesh, RECIPE).step
    return step, state, jax.random.key(1), distributed.place_batches(mesh, {"x": batches})


def bytes_on_a_device(tree):
    """Of the fullest one."""
    held = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values())


@pytest.fixture(scope="module")
def alone():
    step, *arguments = prepare(distributed.make_mesh(devices=jax.devices()[:1]))
    return jax.device_get(step(*arguments))


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (2, 4), (1, 8)])
def test_losses_gradients_and_parameters_are_those_of_one_device(alone, data, fsdp):
    step, *arguments = prepare(distributed.make_mesh(data, fsdp))
    jax.tree.map(
        lambda one, many: np.testing.assert_allclose(many, one, rtol=2e-5, atol=2e-6),
        alone,
        jax.device_get(step(*arguments)),
    )


def test_a_frozen_tree_is_split_like_the_parameters_and_used_whole():
    def towards(params, key, batch, *, frozen, ema, step):
        distance = jnp.sum((params["inner"] - frozen["teacher"]) ** 2)
        return distance + 0 * batch["x"][:, 0], {"distance": distance}

    teacher = jax.random.normal(jax.random.key(2), (24, WIDTH))
    recipe = dataclasses.replace(RECIPE, objective=towards, frozen={"teacher": teacher})

    def trained(mesh):
        rule = partial(distributed.state_shardings, mesh)
        step, _, abstract = training.step_on_mesh(mesh, recipe)
        frozen = jax.device_put(recipe.frozen, jax.tree.map(lambda leaf: leaf.sharding, abstract))
        assert frozen["teacher"].sharding == rule(frozen)["teacher"]
        state = training.init_state(recipe, jax.random.key(0), shardings=rule)
        batches = distributed.place_batches(mesh, {"x": POINTS})
        state, metrics = step(state, jax.random.key(1), batches, frozen)
        assert not frozen["teacher"].is_deleted()
        return jax.device_get((state.params, metrics["distance"]))

    split, alone = (
        trained(distributed.make_mesh(fsdp=8)),
        trained(distributed.make_mesh(devices=jax.devices()[:1])),
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), split, alone)


def test_a_state_keeps_its_shardings_so_that_a_second_call_compiles_nothing():
    step, state, key, batches = prepare(distributed.make_mesh(2, 4))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    for _ in range(3):
        state, _ = step(state, key, batches)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == shardings
    assert step._cache_size() == 1


def test_parameters_optimizer_and_averages_take_an_nth_of_the_bytes_on_each_device():
    whole = prepare(distributed.make_mesh())[1]
    split = prepare(distributed.make_mesh(fsdp=8))[1]
    for ours, theirs in zip(split, whole, strict=True):
        if theirs is not whole.step:
            small = bytes_on_a_device({"bias": jnp.zeros(WIDTH)}) * 5
            assert bytes_on_a_device(ours) <= bytes_on_a_device(theirs) / 8 + small
