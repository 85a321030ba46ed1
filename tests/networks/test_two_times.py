"""Networks of two times: every family, from the teacher's function on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import networks
from sde_diffusion.networks import TOWARDS

SMALL = {
    "mlp": {"features": 8, "num_blocks": 1},
    "ncsnpp": {
        **{"nf": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": ()},
        **{"embedding_type": "positional", "scale_by_sigma": False},
    },
    "dit": {"depth": 1, "features": 16, "num_heads": 2},
}
X, LABELS = jax.random.normal(jax.random.key(0), (2, 4, 4, 1)), jnp.array([3, 1])
T, S = jnp.array([500.0, 100.0]), jnp.array([20.0, 90.0])


def pair(name):
    """A teacher and its student with their parameters, which are drawn so that nothing is 0."""
    drawn = []
    for numbers in ((), (TOWARDS,)):
        network = networks.build(name, **SMALL[name], num_classes=10, numbers=numbers)
        cond = {"label": LABELS} | dict.fromkeys(numbers, S)
        drawn.append((network, jax.jit(network.init)(jax.random.key(1), X, T, cond)["params"]))
    (teacher, params), (student, more) = drawn
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [
        leaf + 0.1 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)
    ]
    return teacher, jax.tree.unflatten(structure, leaves), student, more


@pytest.mark.parametrize("name", ["mlp", "ncsnpp", "dit"])  # ddpm is a kind of ncsnpp
def test_a_student_begins_as_its_teacher_and_can_tell_the_second_time(name):
    teacher, params, student, more = pair(name)
    begun = networks.begin_at(more, params)
    apply = jax.jit(networks.two_times(student.apply))
    expected = jax.jit(teacher.apply)({"params": params}, X, T, LABELS)
    for s in (S, T):
        made = apply({"params": begun}, X, T, s, LABELS)
        np.testing.assert_allclose(made, expected, rtol=1e-6, atol=1e-6)
    # The second time's layer takes a gradient, and tells times apart once it is not zero.
    told = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 0.1 if "number_towards" in str(path) else leaf, begun
    )
    assert not np.allclose(apply({"params": told}, X, T, S, LABELS), expected)


def test_a_student_is_a_model_with_a_flow_map():
    teacher, params, student, more = pair("mlp")
    sde = sd.VP()
    variables = {"params": networks.begin_at(more, params)}
    model = sd.from_flow_map_network(sde, networks.two_times(student.apply), variables, "v")
    one_time = sd.from_network(sde, teacher.apply, {"params": params}, "v")
    np.testing.assert_allclose(model(X, 0.5, LABELS).x0, one_time(X, 0.5, LABELS).x0, rtol=1e-6)
    # The teacher's function makes DDIM's step of the map.
    expected = one_time(X, 0.5, LABELS).towards(0.2)
    np.testing.assert_allclose(model.flow_map(X, 0.5, 0.2, LABELS).x, expected, rtol=1e-5)


def test_a_teacher_that_does_not_fit_is_named():
    _, params, _, more = pair("mlp")
    with pytest.raises(ValueError, match=r"the teacher's parameter /extra is none of the student"):
        networks.begin_at(more, {**params, "extra": jnp.ones(2)})
    wide = {**params, "Dense_0": {**params["Dense_0"], "bias": jnp.ones(3)}}
    with pytest.raises(ValueError, match=r"/Dense_0/bias has the shape \(3,\), and the student's"):
        networks.begin_at(more, wide)
    network = networks.MLP(numbers=(TOWARDS,))
    with pytest.raises(ValueError, match="cond has no 'towards', a number that the network takes"):
        network.init(jax.random.key(0), X, T)
