"""Small leaves of one shape are updated together, and nothing but the number of arrays changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sde_diffusion.training import init_state, make_step
from sde_diffusion.training.stacking import Stacking

SHAPES = {"a": (3,), "kernel": (64, 128), "b": (3,), "c": (2, 2), "other": (64, 128), "d": (3,)}


def params(key):
    return {
        name: jax.random.normal(jax.random.fold_in(key, i), shape)
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def same(tree, other):
    return jax.tree.structure(tree) == jax.tree.structure(other) and all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    )


tree = params(jax.random.key(0))
stacking = Stacking(jax.eval_shape(lambda: tree))


def test_small_leaves_of_one_shape_are_one_array_and_large_ones_stay_apart():
    shapes = sorted(array.shape for array in stacking.stack(tree))
    assert shapes == [(2, 2), (3, 3), (64, 128), (64, 128)]


def test_unstack_is_the_inverse():
    assert same(stacking.unstack(stacking.stack(tree)), tree)


def test_what_an_optimizer_keeps_for_each_parameter_is_stacked_too():
    state = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)).init(tree)
    stacked = stacking.stack_within(state)
    assert len(jax.tree.leaves(stacked)) == 1 + 2 * 4  # the number of updates, and two moments
    assert same(stacking.unstack_within(stacked), state)


def test_a_tree_of_other_shapes_is_left_alone():
    other = {name: jnp.zeros(7) for name in SHAPES}
    assert same(stacking.stack_within((other, tree))[0], other)


def test_updates_together_are_those_of_each_leaf_by_itself():
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2))

    def loss(params, key, batch):
        distance = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(params))
        return distance * (batch + jax.random.normal(key, batch.shape))

    def trained(elementwise):
        step = make_step(loss, optimizer, (0.9, 0.99), elementwise=elementwise)
        state = init_state(params, optimizer, (0.9, 0.99), jax.random.key(0))
        return step(state, jax.random.key(1), jnp.ones((3, 4)))

    together, apart = trained(True), trained(False)
    assert jax.tree.structure(together) == jax.tree.structure(apart)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_an_optimizer_that_tells_leaves_apart_is_left_the_tree():
    frozen = optax.masked(optax.set_to_zero(), {name: name == "a" for name in SHAPES})
    optimizer = optax.chain(optax.sgd(1.0), frozen)

    def loss(params, key, batch):
        return batch * sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))

    state = init_state(params, optimizer, (), jax.random.key(0))
    before = jax.tree.map(np.asarray, state.params)
    after, _ = make_step(loss, optimizer)(state, jax.random.key(1), jnp.ones((1, 2)))
    np.testing.assert_array_equal(after.params["a"], before["a"])
    assert not np.array_equal(after.params["b"], before["b"])
