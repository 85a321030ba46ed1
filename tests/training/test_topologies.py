"""A checkpoint of one mesh is the same bits on any other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tiny_run import same

from sde_diffusion.distributed import make_mesh, state_shardings
from sde_diffusion.objectives import of_loss
from sde_diffusion.training import Recipe, abstract_state, checkpoint, init_state


def init_params(key):
    return {"w": jax.random.normal(key, (64, 96)), "b": jnp.zeros(5)}


RECIPE = Recipe(init_params, of_loss(lambda *_: jnp.zeros(1)), optax.adam(1e-3), (0.9,))


def test_a_state_goes_from_mesh_to_mesh_without_a_change(tmp_path):
    devices = jax.devices()
    eight, parts = make_mesh(), make_mesh(fsdp=8)
    one, four = make_mesh(devices=devices[:1]), make_mesh(2, 2, devices=devices[4:])
    state = init_state(RECIPE, jax.random.key(0), shardings=partial(state_shardings, eight))
    first = jax.device_get(state)
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        for step, mesh in enumerate([parts, one, four, eight]):
            checkpoint.save(checkpoints, step, state, None)
            checkpoint.finish(checkpoints)
            wanted = abstract_state(RECIPE, shardings=partial(state_shardings, mesh))
            state = checkpoint.restore(checkpoints, wanted).state
            assert same(state, first)
            assert {d for leaf in jax.tree.leaves(state) for d in leaf.devices()} == set(
                np.ravel(mesh.devices)
            )
