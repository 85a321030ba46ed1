"""A model: a function with its SDE and parameters, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.sdes import expand

SDE = sd.VP()
STD = 0.5


def score(x, t):
    """The exact score of N(0, STD^2 I), written for t [B]."""
    return -x / expand(SDE.alpha(t) ** 2 * STD**2 + SDE.sigma(t) ** 2, x)


def score_on_the_wrong_axis(x, t):
    return -x / (SDE.alpha(t) ** 2 * STD**2 + SDE.sigma(t) ** 2)


def drawn(model, shape=(6, 2), **options):
    options = {"solver": samplers.DDIM(), "grid": grids.uniform(SDE, 8)} | options
    return sd.sample(jax.random.key(0), model, shape, **options)


def test_a_users_function_receives_one_time_for_each_sample():
    shapes = []

    def eps(x, t):
        shapes.append(t.shape)
        return 0.1 * x

    model = sd.from_eps(SDE, eps)
    model(jnp.ones((6, 2)), 0.5)
    drawn(model)
    drawn(model, solver=samplers.AdaptiveDPMSolver(), grid=grids.uniform(SDE, 1))
    sd.objectives.denoising_loss(jax.random.key(0), model, jnp.ones((6, 2)))
    assert set(shapes) == {(6,)}


def test_a_function_that_takes_the_time_for_another_axis_is_refused_for_every_batch():
    model = sd.from_score(SDE, score_on_the_wrong_axis)
    with pytest.raises(ValueError, match=r"write expand\(t, x\)"):  # 2 = B = D would broadcast
        model(jnp.ones((2, 2)), 0.5)
    with pytest.raises((TypeError, ValueError)):
        model(jnp.ones((3, 2)), 0.5)
    expected = score(jnp.ones((2, 2)), jnp.full(2, 0.5))
    np.testing.assert_allclose(sd.from_score(SDE, score)(jnp.ones((2, 2)), 0.5).score, expected)


def test_a_condition_goes_beside_its_sample_and_another_value_compiles_nothing():
    traces = []

    def x0(x, t, cond):
        traces.append(1)
        return jnp.broadcast_to(cond["mean"][:, None], x.shape)

    model, means = sd.from_x0(SDE, x0), jnp.arange(6.0)
    ends = [drawn(model, cond={"mean": shift + means}).x for shift in (0.0, 10.0)]
    assert len(traces) == 2  # one step of the scan, and the last evaluation
    np.testing.assert_allclose(ends[1], np.tile(10.0 + means[:, None], (1, 2)), rtol=1e-5)


def test_a_condition_for_another_number_of_samples_is_named():
    model = sd.from_x0(SDE, lambda x, t, cond: x)
    with pytest.raises(ValueError, match=r"cond\['mean'\] has shape \(5,\).*6 samples"):
        drawn(model, cond={"mean": jnp.ones(5)})


def test_parameters_of_the_sde_and_of_the_function_are_leaves():
    def apply(w, x, label):
        return w * x

    model = sd.from_network(SDE, apply, jnp.float32(0.3))
    slope = jax.grad(lambda model: jnp.sum(drawn(model).x ** 2))(model)
    assert slope.params != 0.0
    assert slope.sde.beta_max != 0.0


def test_evaluations_are_what_the_prediction_says():
    def twice(params, sde, x, t, cond):
        made = params(x, t)
        return sd.Prediction(made.kind, made.value, x, t, sde, evaluations=2)

    inner = sd.from_score(SDE, score)
    outer = sd.Model(SDE, twice, inner)
    for solver in (samplers.DDIM(), samplers.Heun(), samplers.UniPC()):
        assert int(drawn(outer, solver=solver).nfe) == 2 * int(drawn(inner, solver=solver).nfe)
    ends = grids.uniform(SDE, 1)
    for solver in (samplers.AdaptiveDPMSolver(), samplers.GottaGoFast(), samplers.BlackBox()):
        alone, both = (drawn(model, solver=solver, grid=ends).nfe for model in (inner, outer))
        np.testing.assert_array_equal(both, 2 * alone)


def test_a_branch_that_is_skipped_counts_nothing():
    def below(params, sde, x, t, cond):
        def evaluated():
            return params(x, t).x0, 1

        value, calls = jax.lax.cond(jnp.all(t < 0.5), evaluated, lambda: (jnp.zeros_like(x), 0))
        return sd.Prediction("x0", value, x, t, sde, calls)

    model = sd.Model(SDE, below, sd.from_score(SDE, score))
    grid = jnp.array([1.0, 0.8, 0.6, 0.4, 0.2])
    assert int(drawn(model, grid=grid).nfe) == 2  # at 0.4, and at 0.2 to denoise


@pytest.mark.parametrize("make", [sd.from_eps, sd.from_score])
def test_eps_and_score_are_refused_where_alpha_is_zero(make):
    with pytest.raises(ValueError, match=r"t_max=1 of Flow.*predict v, velocity or x0"):
        make(sd.Flow(), lambda x, t: x)
    make(sd.Flow(t_max=0.999), lambda x, t: x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": lambda x, t: x}, "model must be a Model.*got function"),
        ({"model": sd.Model(SDE, lambda *args: args[2])}, "must return a Prediction, got"),
        ({"solver": samplers.DDIM}, r"solver is the class DDIM: pass a value, DDIM\(\)"),
        ({"solver": "ddim"}, "solver must be a Solver, got 'ddim'"),
        ({"key": 0}, r"key must be made by jax.random.key\(seed\), got 0"),
    ],
)
def test_an_argument_of_another_type_is_named(arguments, message):
    given = {"key": jax.random.key(0), "model": sd.from_score(SDE, score)}
    given |= {"solver": samplers.DDIM(), "grid": grids.uniform(SDE, 4)} | arguments
    with pytest.raises(TypeError, match=message):
        sd.sample(shape=(2, 3), **given)


def test_a_function_that_returns_another_shape_is_named():
    with pytest.raises(ValueError, match=r"returned shape \(3, 1\) for x of shape \(3, 2\)"):
        sd.from_eps(SDE, lambda x, t: x[:, :1])(jnp.ones((3, 2)), 0.5)


def test_a_function_that_is_made_anew_for_every_call_is_warned_of(caplog):
    for scale in range(5):
        drawn(sd.from_eps(SDE, lambda x, t, scale=scale: 0.1 * scale * x), shape=(7, 3))
    assert caplog.text.count("was compiled 5 times for the model of") == 1


def test_times_are_float32_for_samples_of_fewer_bits():
    seen = []

    def eps(x, t):
        seen.append(t)
        return x

    sd.from_eps(SDE, eps)(jnp.ones((1, 2), jnp.bfloat16), 998 / 999)
    assert seen[0].dtype == jnp.float32
    assert float(seen[0][0]) == pytest.approx(998 / 999, abs=1e-7)
