"""Values of one kind are never taken for those of another."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import pytest

import sde_diffusion as sd
from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import KINDS


@pytree
class Scaled:
    by: jax.Array
    power: int = dataclasses.field(default=1, metadata={"static": True})


@pytree
class Shifted:
    by: jax.Array


def test_leaves_are_the_fields_that_are_not_static():
    value = Scaled(jnp.ones(3), power=2)
    doubled = jax.tree.map(lambda a: 2 * a, value)
    assert doubled.power == 2
    assert doubled.by.tolist() == [2.0, 2.0, 2.0]
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(value)] == [".by"]


def test_static_fields_are_structure():
    assert jax.tree.structure(Scaled(1.0, 2)) == jax.tree.structure(Scaled(3.0, 2))
    assert jax.tree.structure(Scaled(1.0, 2)) != jax.tree.structure(Scaled(1.0, 3))


def test_a_value_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Shifted(1.0).by = 2.0


def test_classes_of_as_many_fields_differ_in_structure():
    # Not so under jax.tree_util.register_dataclass: jit then took one class for the other, in one
    # process of sixty.
    @sd.kind
    class Mine(sd.VP):
        pass

    values = [kind() for kind in KINDS.values()] + [Mine(), Scaled(1.0), Shifted(1.0)]
    for one, other in itertools.combinations(values, 2):
        assert jax.tree.structure(one) != jax.tree.structure(other), (one, other)


def test_jit_compiles_for_each_class():
    traced = []

    @jax.jit
    def name(value):
        traced.append(type(value).__name__)
        return value.by

    for number in range(200):
        # As many pairs as take 1 - (1 - 1/64)^200 = 96 % to show a structure that equals another.
        made = [pytree(type(f"{n}{number}", (), {"__annotations__": {"by": float}})) for n in "ab"]
        for kind in made:
            name(kind(1.0))
    assert len(traced) == len(set(traced)) == 400
