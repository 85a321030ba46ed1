"""The steps of a fit, by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import sde_diffusion as sd
from sde_diffusion import samplers
from sde_diffusion.fitting import family, least_squares, starts

SDE = sd.VP()


def descend(denoise, target):
    drawn = starts.draw(jax.random.key(0), SDE, (8, 2), None)._replace(target=target)
    model, make = Partial(sd.from_x0(SDE, denoise)), family.grid_of(samplers.DDIM())
    theta = jnp.zeros(3)
    settings = {"m": 1.0, "num": 8, "size": 8}
    return list(
        least_squares.descend(jax.random.key(1), make, model, SDE, theta, drawn, **settings)
    )


def test_where_no_parameter_changes_the_ends_there_are_no_steps():
    assert descend(lambda x, t: jnp.zeros_like(x), np.ones((8, 2), np.float32)) == []


def test_where_the_ends_are_met_there_are_none_either():
    assert descend(lambda x, t: jnp.zeros_like(x), np.zeros((8, 2), np.float32)) == []


def test_where_a_parameter_changes_the_ends_there_are_steps():
    assert descend(lambda x, t: 0.5 * x, np.ones((8, 2), np.float32))
