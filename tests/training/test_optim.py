import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sde_diffusion.training import make_optimizer, make_schedule


def rates(schedule, steps):
    return np.array([schedule(step) for step in steps])


def test_a_warm_up_rises_in_a_straight_line():
    schedule = make_schedule("constant", lr=0.5, warmup=10, total_steps=100)
    expected = [0, 0.05, 0.25, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(rates(schedule, [0, 1, 5, 10, 50, 1000]), expected, rtol=1e-6)


def test_cosine_falls_from_the_end_of_the_warm_up_to_zero_at_the_last_step():
    schedule = make_schedule("cosine", lr=2.0, warmup=20, total_steps=120)
    expected = [2.0, 1 + np.cos(np.pi / 4), 1.0, 0.0]
    np.testing.assert_allclose(rates(schedule, [20, 45, 70, 120]), expected, atol=1e-6)


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert make_schedule("cosine", lr=0.1, total_steps=10)(0) == pytest.approx(0.1)


def first_update(optimizer, grads, params):
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return updates


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_first_step_of_adam_is_the_rate_against_the_gradients_sign(name):
    # After bias correction m = g and v = g^2, so the update is -lr g / |g|.
    params, grads = jnp.ones(3), jnp.array([1e-3, -2.0, 50.0])
    update = first_update(make_optimizer(name, learning_rate=0.1), grads, params)
    np.testing.assert_allclose(update, [-0.1, 0.1, -0.1], rtol=1e-4)


def test_weight_decay_pulls_the_parameters_not_the_gradient():
    params = jnp.array([2.0, -4.0])
    optimizer = make_optimizer("adamw", learning_rate=0.1, weight_decay=0.01)
    np.testing.assert_allclose(
        first_update(optimizer, jnp.zeros(2), params), -0.1 * 0.01 * params, rtol=1e-6
    )


def test_clipping_bounds_the_global_norm_before_adam_sees_it():
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    grads = {"a": jnp.array([30.0]), "b": jnp.array([40.0])}
    optimizer = make_optimizer("adam", learning_rate=1.0, b1=0.5, clip_norm=5.0)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    first_moment = optax.tree.get(state, "mu")
    np.testing.assert_allclose([first_moment["a"][0], first_moment["b"][0]], [1.5, 2.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adamm"}, "unknown optimizer 'adamm'; did you mean 'adam'"),
        ({"b1": 1.0}, "b1: 1.0"),
        ({"b2": -0.5}, "b2: -0.5"),
        ({"eps": 0.0}, "eps: 0.0"),
        ({"clip_norm": 0.0}, "clip_norm: 0.0"),
        ({"name": "adamw", "weight_decay": -1.0}, "weight_decay: -1.0"),
        ({"name": "adam", "weight_decay": 0.1}, "weight_decay: 0.1 needs the optimizer 'adamw'"),
    ],
)
def test_a_bad_field_of_the_optimizer_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(**{"learning_rate": 0.1, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"lr": 0.0}, "lr: 0.0"),
        ({"warmup": -1}, "warmup: -1"),
        ({"warmup": 100}, "warmup: 100 is not in .0, total_steps = 100"),
    ],
)
def test_a_bad_field_of_the_schedule_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(**{"lr": 0.1, "total_steps": 100, **fields})
