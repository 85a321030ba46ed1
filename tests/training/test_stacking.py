"""Small leaves of one shape are updated together, and nothing but the number of arrays changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sde_diffusion.objectives import of_loss
from sde_diffusion.training import Recipe, init_state, make_optimizer, make_step
from sde_diffusion.training.optim import Elementwise
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


def trained(optimizer):
    """The state and metrics after three updates; the loss pulls each leaf along a sine."""

    def loss(params, key, batch):
        distance = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(params))
        return distance * (batch + jax.random.normal(key, batch.shape))

    recipe = Recipe(params, of_loss(loss), optimizer, (0.9, 0.99))
    state = init_state(recipe, jax.random.key(0))
    return make_step(recipe)(state, jax.random.key(1), jnp.ones((3, 4)))


def assert_alike(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_updates_together_are_those_of_each_leaf_by_itself():
    fields = {"learning_rate": 1e-2, "weight_decay": 1e-2, "clip_norm": 0.5}
    together = make_optimizer("adamw", **fields)
    apart = optax.GradientTransformation(*together)
    assert isinstance(together, Elementwise)
    assert not isinstance(apart, Elementwise)
    assert_alike(trained(together), trained(apart))


def matrices(tree):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


MASKED = {
    "adamw with a mask": optax.adamw(1e-2, weight_decay=0.1, mask=matrices),
    "ours, with masked decay after it": optax.chain(
        make_optimizer("adam", learning_rate=1e-2), optax.add_decayed_weights(-1e-3, matrices)
    ),
    "a rate for each number of dimensions": optax.multi_transform(
        {True: optax.adam(1e-2), False: optax.adam(1e-3)}, matrices
    ),
}


@pytest.mark.parametrize("name", MASKED)
def test_an_optimizer_that_looks_at_the_number_of_dimensions_sees_the_leaves_own(name):
    # The vectors "a", "b" and "d" would be one matrix if they were stacked.
    explicit = {key: len(shape) > 1 for key, shape in SHAPES.items()}
    expected = {
        "adamw with a mask": optax.adamw(1e-2, weight_decay=0.1, mask=explicit),
        "ours, with masked decay after it": optax.chain(
            optax.adam(1e-2), optax.add_decayed_weights(-1e-3, explicit)
        ),
        "a rate for each number of dimensions": optax.multi_transform(
            {True: optax.adam(1e-2), False: optax.adam(1e-3)}, explicit
        ),
    }[name]
    assert_alike(trained(MASKED[name])[0].params, trained(expected)[0].params)
