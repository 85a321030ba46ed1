"""PLMS: the steps of PNDM without Runge-Kutta, written out by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.samplers import Counted

SDE = sd.VP()
TIMES = jnp.array([0.9, 0.7, 0.5, 0.3, 0.2, 0.1])
X = jnp.array([[1.3, -0.2], [-0.5, 0.9]])


def value_of(x, t):
    return jnp.tanh(x) + jnp.sin(3.0 * t).reshape(-1, 1)


def ddim(view, x, value, t, s):
    alpha, sigma = SDE.alpha(t), SDE.sigma(t)
    if view == "eps":
        x0, eps = (x - sigma * value) / alpha, value
    else:
        x0, eps = alpha * x - sigma * value, sigma * x + alpha * value
    return SDE.alpha(s) * x0 + SDE.sigma(s) * eps


def by_hand(view):
    x, values, made = X, [], []
    constants = {2: [3, -1], 3: [23, -16, 5], 4: [55, -59, 37, -9]}
    for t, s in itertools.pairwise(TIMES):
        values = [value_of(x, t), *values][:4]
        if len(values) == 1:
            end = ddim(view, x, values[0], t, s)
            combined = (values[0] + value_of(end, s)) / 2
        else:
            weights = constants[len(values)]
            pairs = zip(weights, values, strict=True)
            combined = sum(w * value for w, value in pairs) / sum(weights)
        x = ddim(view, x, combined, t, s)
        made.append(x)
    return made


def model_of(view):
    return {"eps": sd.from_eps, "v": sd.from_v}[view](SDE, value_of)


@pytest.mark.parametrize("view", ["eps", "v"])
def test_its_steps_are_those_of_the_paper_with_the_first_repeated(view):
    solver, model = samplers.PLMS(view), Counted(model_of(view))
    state, calls = solver.init(X), []
    for t, s, expected in zip(TIMES[:-1], TIMES[1:], by_hand(view), strict=True):
        state = solver.step(None, model, state, t, s)
        calls.append(int(model.calls))
        np.testing.assert_allclose(state.x, expected, rtol=2e-5, atol=2e-5)
    assert calls == [2, 3, 4, 5, 6]


def test_compiled_it_takes_the_same_steps_and_counts_them():
    made = samplers.sample(
        jax.random.key(0),
        model_of("eps"),
        X.shape,
        solver=samplers.PLMS(),
        grid=TIMES,
        x_init=X,
        denoise_last=False,
    )
    np.testing.assert_allclose(made.x, by_hand("eps")[-1], rtol=2e-5, atol=2e-5)
    assert int(made.nfe) == 6


def test_the_network_is_not_evaluated_twice_after_the_first_step():
    asked = []

    def noted(x, t):
        jax.debug.callback(lambda: asked.append(1))
        return value_of(x, t)

    samplers.sample(
        jax.random.key(0),
        sd.from_eps(SDE, noted),
        X.shape,
        solver=samplers.PLMS(),
        grid=grids.uniform(SDE, 9),
        denoise_last=False,
    )
    jax.effects_barrier()
    assert len(asked) == 10


def test_another_view_is_refused():
    with pytest.raises(ValueError, match="PLMS takes the view eps or v, got 'x0'"):
        samplers.PLMS("x0")
