"""The steps of a fit, by themselves."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import sde_diffusion as sd
from sde_diffusion import samplers
from sde_diffusion.fitting import family, least_squares, starts

SDE = sd.VP()
DDIM = family.grid_of(samplers.DDIM())
THETAS = (jnp.array([0.5, 1.0, -0.5]), jnp.array([-1.0, 0.5, 1.0]))


def half(x, t):
    return 0.5 * x


def ends(drawn, theta):
    return least_squares.end(DDIM, sd.from_x0(SDE, half), theta, drawn)


def descend(denoise, target, choose=lambda drawn, number, theta: drawn, first=None, **options):
    drawn = starts.draw(jax.random.key(0), SDE, (8, 2), None)._replace(target=target)
    model = sd.from_x0(SDE, denoise)
    theta = jnp.zeros(3)
    settings = {"m": 1.0, "num": 8, "size": 8} | options
    chosen = partial(choose, drawn)
    steps = least_squares.descend(jax.random.key(1), DDIM, model, theta, chosen, **settings)
    return list(itertools.islice(steps, first))


def test_where_no_parameter_changes_the_ends_there_are_no_steps():
    assert descend(lambda x, t: jnp.zeros_like(x), np.ones((8, 2), np.float32)) == []


def test_where_the_ends_are_met_there_are_none_either():
    assert descend(lambda x, t: jnp.zeros_like(x), np.zeros((8, 2), np.float32)) == []


def test_where_a_parameter_changes_the_ends_there_are_steps():
    assert descend(half, np.ones((8, 2), np.float32))


def test_the_starts_are_chosen_anew_after_every_lap_for_what_was_reached():
    asked = []

    def choose(drawn, number, theta):
        asked.append((number, theta))
        return drawn._replace(target=np.asarray(ends(drawn, THETAS[0])))

    steps = descend(half, None, choose, first=5, lap=2)
    assert [number for number, _ in asked] == [0, 1, 2]
    for number, theta in asked[1:]:
        np.testing.assert_array_equal(theta, steps[2 * number - 1])


def test_it_ends_where_there_are_no_more_starts():
    def choose(drawn, number, theta):
        return drawn._replace(target=np.asarray(ends(drawn, THETAS[0]))) if number < 2 else None

    assert len(descend(half, None, choose, lap=2)) == 4


def test_it_descends_on_the_starts_that_were_chosen_last():
    def choose(drawn, number, theta):
        return drawn._replace(target=np.asarray(ends(drawn, THETAS[min(number, 1)])))

    def far(drawn, theta, other):
        return np.abs(ends(drawn, theta) - ends(drawn, other)).max()

    drawn = starts.draw(jax.random.key(0), SDE, (8, 2), None)
    steps = descend(half, drawn.x, choose, lap=10, tolerance=-np.inf)
    for theta, other in zip((steps[4], steps[-1]), THETAS, strict=True):
        assert far(drawn, theta, other) < 1e-4 < 0.1 < far(drawn, *THETAS)
