import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tiny_run import RECIPE, init_params, same

from sde_diffusion.training import abstract_state, init_state

KEY = jax.random.key(0)


def on_a_mesh(abstract):
    """Matrices split over the mesh's `fsdp` axis, everything else on every device."""
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, P("fsdp") if len(leaf.shape) == 2 else P()), abstract
    )


def test_a_new_state_is_at_step_0_with_averages_equal_to_the_parameters():
    state = init_state(RECIPE, KEY)
    assert state.step == 0
    assert same(state.params, jax.jit(init_params)(KEY))
    assert all(same(average, state.params) for average in state.ema)
    assert len(state.ema) == 2


def test_the_state_is_born_on_its_shardings():
    state = init_state(RECIPE, KEY, shardings=on_a_mesh)
    wanted = on_a_mesh(jax.eval_shape(lambda: state))
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == wanted
    assert state.params["w"].sharding.spec == P("fsdp")


def test_the_abstract_state_is_the_state_without_its_numbers():
    abstract = abstract_state(RECIPE, shardings=on_a_mesh)
    state = init_state(RECIPE, KEY, shardings=on_a_mesh)

    def kind(leaf):
        return leaf.shape, leaf.dtype, leaf.sharding

    assert jax.tree.map(kind, abstract) == jax.tree.map(kind, state)
