import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_run import POINTS, init_params, loss_fn, same

from sde_diffusion.objectives import of_loss
from sde_diffusion.training import Recipe, StepOptions, init_state, make_step

KEY = jax.random.key(7)
SGD = optax.sgd(0.1)


def quadratic(params, key, batch):
    """|w - x|^2 / 2: the gradient of its mean over a batch is w - mean(x)."""
    return jnp.sum((params["w"] - batch["x"]) ** 2, axis=-1) / 2


def recipe_of(loss, optimizer=SGD, ema_rates=(), init=lambda key: {"w": jnp.zeros(2)}, **options):
    return Recipe(init, of_loss(loss), optimizer, ema_rates, options=StepOptions(**options))


def quadratic_state(ema_rates=(), optimizer=SGD):
    return init_state(recipe_of(quadratic, optimizer, ema_rates), KEY)


def step_of(*args, **kwargs):
    return make_step(recipe_of(*args, **kwargs))


def stack(count, size=8):
    """`count` batches of `size` points: [count, size, 2]."""
    return {"x": jnp.asarray(POINTS[: count * size].reshape(count, size, 2))}


def test_each_slice_of_a_call_is_one_update():
    batches = stack(3)
    state, metrics = step_of(quadratic)(quadratic_state(), KEY, batches)

    w, objectives, norms = np.zeros(2), [], []
    for x in np.asarray(batches["x"], np.float64):
        objectives.append(np.mean(np.sum((w - x) ** 2, axis=-1)) / 2)
        norms.append(np.linalg.norm(w - x.mean(axis=0)))
        w = w - 0.1 * (w - x.mean(axis=0))
    assert state.step == 3
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], objectives, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], norms, rtol=1e-5)


def test_every_ema_follows_the_parameters_at_its_own_rate():
    batches = stack(2)
    step = step_of(quadratic, SGD, (0.0, 0.05))
    state, _ = step(quadratic_state((0.0, 0.05)), KEY, batches)
    means = np.asarray(batches["x"]).mean(axis=1)
    first = 0.1 * means[0]
    second = first + 0.1 * (means[1] - first)
    np.testing.assert_allclose(state.ema[0]["w"], second, rtol=1e-5)
    np.testing.assert_allclose(state.ema[1]["w"], 0.05 * (0.95 * first) + 0.95 * second, rtol=1e-5)


def test_how_updates_are_grouped_into_calls_changes_no_bit():
    optimizer = optax.adam(1e-2)
    batches = stack(8)

    def run(steps_per_call):
        recipe = recipe_of(loss_fn, optimizer, (0.99,), init_params)
        step, state = make_step(recipe), init_state(recipe, KEY)
        for first in range(0, 8, steps_per_call):
            some = jax.tree.map(lambda leaf: leaf[first : first + steps_per_call], batches)  # noqa: B023
            state, _ = step(state, KEY, some)
        return state

    assert same(run(1), run(4))
    assert same(run(1), run(8))


def test_an_update_draws_from_the_key_folded_with_the_updates_before_it():
    def loss_is_noise(params, key, batch):
        return jax.random.normal(key, (8,)) + 0 * params["w"][0]

    _, metrics = step_of(loss_is_noise)(quadratic_state(), KEY, stack(3))
    expected = [jax.random.normal(jax.random.fold_in(KEY, n), (8,)).mean() for n in range(3)]
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulated_parts_make_the_update_of_the_whole_batch(accumulate):
    whole, told = step_of(quadratic)(quadratic_state(), KEY, stack(2))
    parts, also = step_of(quadratic, accumulate=accumulate)(quadratic_state(), KEY, stack(2))
    np.testing.assert_allclose(parts.params["w"], whole.params["w"], rtol=1e-5)
    np.testing.assert_allclose(also["loss"], told["loss"], rtol=1e-5)
    np.testing.assert_allclose(also["grad_norm"], told["grad_norm"], rtol=1e-5)


def test_accumulated_parts_draw_different_noise():
    seen = []

    def loss_is_noise(params, key, batch):
        noise = jax.random.normal(key, batch["x"].shape[:1])
        jax.debug.callback(lambda value: seen.append(value.tolist()), noise)
        return noise + 0 * params["w"][0]

    step = step_of(loss_is_noise, accumulate=2)
    jax.block_until_ready(step(quadratic_state(), KEY, stack(1)))
    jax.effects_barrier()
    assert len(seen) == 2
    assert seen[0] != seen[1]


def test_a_second_call_traces_nothing():
    traces = []

    def counting(params, key, batch):
        traces.append(1)
        return quadratic(params, key, batch)

    step = step_of(counting, SGD, (0.9,))
    state, _ = step(quadratic_state((0.9,)), KEY, stack(2))
    traced = len(traces)
    for _ in range(3):
        state, _ = step(state, KEY, stack(2))
    assert traced > 0
    assert len(traces) == traced


def test_the_states_buffers_are_reused_and_the_batches_are_not():
    state, batches = quadratic_state((0.9,), optax.adam(0.1)), stack(2)
    step_of(quadratic, optax.adam(0.1), (0.9,))(state, KEY, batches)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert not batches["x"].is_deleted()


def test_a_batch_that_cannot_be_parted_is_named():
    step = step_of(quadratic, accumulate=3)
    with pytest.raises(ValueError, match="accumulate: 3 does not divide the batch of 8"):
        step(quadratic_state(), KEY, stack(1))


def teach(params, key, batch, *, frozen, ema, step):
    """Half the squared distance to a frozen point; reports what else the objective receives."""
    loss = jnp.sum((params["w"] - frozen["teacher"] + 0 * batch["x"]) ** 2, axis=-1) / 2
    metrics = {"number": step, "average": ema[1]["w"][0], "mean_x": jnp.mean(batch["x"])}
    return loss, metrics


TEACHER = {"teacher": jnp.array([3.0, -1.0])}


@pytest.mark.parametrize("accumulate", [1, 4])
def test_an_objective_receives_frozen_trees_averages_and_the_number_of_the_step(accumulate):
    recipe = Recipe(
        lambda key: {"w": jnp.zeros(2)},
        teach,
        SGD,
        (0.0, 0.05),
        frozen=TEACHER,
        options=StepOptions(accumulate=accumulate),
    )
    state, metrics = make_step(recipe)(quadratic_state((0.0, 0.05)), KEY, stack(3), TEACHER)
    target = np.array([3.0, -1.0])
    np.testing.assert_allclose(state.params["w"], (1 - 0.9**3) * target, rtol=1e-5)
    np.testing.assert_array_equal(metrics["number"], [0, 1, 2])
    np.testing.assert_allclose(metrics["mean_x"], np.mean(stack(3)["x"], (1, 2)), rtol=1e-5)
    first = 0.3 * (1 - 0.05)  # the average after one update, by the rate of 0.05
    np.testing.assert_allclose(metrics["average"][:2], [0.0, first], rtol=1e-5)
    assert not TEACHER["teacher"].is_deleted()


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda *_, **__: (jnp.zeros(()), {}), r"one value for each sample, .* its shape is \(\)"),
        (lambda *_, **__: (jnp.zeros(8), {"a": jnp.zeros(8)}), "'a' must be a scalar"),
        (lambda *_, **__: (jnp.zeros(8), {"loss": 0.0}), "'loss' has the name of something"),
    ],
)
def test_an_objective_that_returns_something_else_is_told_so(objective, message):
    step = make_step(Recipe(lambda key: {"w": jnp.zeros(2)}, objective, SGD, ()))
    with pytest.raises(ValueError, match=message):
        step(quadratic_state(), KEY, stack(1))
