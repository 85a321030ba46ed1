"""A run that starts from stored parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sde_diffusion.objectives import of_loss
from sde_diffusion.training import Recipe, checkpoint, init_from, init_state
from sde_diffusion.tree_names import named


def init_params(key, classes=4):
    a, b = jax.random.split(key)
    return {
        "body": {"in": {"kernel": jax.random.normal(a, (16, 8))}, "bias": jnp.ones(8)},
        "head": {"kernel": jax.random.normal(b, (8, classes))},
    }


def recipe(*ema_rates):
    objective = of_loss(lambda *_: jnp.zeros(1))
    return Recipe(init_params, objective, optax.adam(1e-3), ema_rates)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, and the state in it, whose average is twice the parameters."""
    workdir = tmp_path_factory.mktemp("run")
    state = init_state(recipe(0.9), jax.random.key(7))
    state = state._replace(ema=(jax.tree.map(lambda leaf: 2 * leaf, state.params),))
    with checkpoint.open_checkpoints(workdir) as checkpoints:
        checkpoint.save(checkpoints, 3, state, None)
    return workdir, state


@pytest.fixture
def fresh():
    return init_state(recipe(0.5, 0.9), jax.random.key(0))


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@pytest.mark.parametrize("ema", [None, 0])
def test_all_of_a_run_is_taken_and_is_where_the_averages_start(run, fresh, ema):
    workdir, state = run
    stored = init_from.in_run(workdir, ema=ema)
    plan = init_from.plan(stored, fresh.params)
    assert plan == (("body/bias", "body/in/kernel", "head/kernel"), (), (), ())
    begun = init_from.start(fresh, stored, plan.take)
    wanted = state.params if ema is None else state.ema[0]
    for tree in (begun.params, *begun.ema):
        assert equal(tree, wanted)
    assert equal(begun.opt_state, fresh.opt_state)
    # as a step that donates the state needs
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((begun.params, begun.ema))]
    assert len(set(buffers)) == len(buffers)
    assert begun.step == 0


def test_a_part_is_taken_and_all_is_listed(run, fresh):
    workdir, state = run
    params = {**fresh.params, "new": jnp.zeros(2)}
    fresh = fresh._replace(params=params, ema=(params, params))
    stored = init_from.in_run(workdir, ema=None)
    plan = init_from.plan(stored, params, "body/*,new,!body/in/*")
    assert plan.take == ("body/bias",)
    assert plan.left == ("body/in/kernel", "head/kernel")
    assert plan.missing == ("new",)
    assert plan.unwanted == ("body/in/kernel", "head/kernel")
    begun = init_from.start(fresh, stored, plan.take)
    assert equal(begun.params["body"]["bias"], state.params["body"]["bias"])
    assert equal(begun.params["head"], params["head"])
    assert equal(begun.params["new"], params["new"])


def test_arrays_have_names_with_dots_or_slashes_and_any_dtype(fresh):
    kernel = np.arange(32, dtype=np.float16).reshape(8, 4)
    arrays = {"head.kernel": kernel, "body/bias": np.arange(8), "other": kernel}
    stored = init_from.in_arrays("x", arrays)
    plan = init_from.plan(stored, fresh.params)
    assert plan.left == ("other",)
    assert plan.missing == ("body/in/kernel",)
    begun = init_from.start(fresh, stored, plan.take)
    assert begun.params["head"]["kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(begun.params["head"]["kernel"], kernel)


@pytest.mark.parametrize("kind", ["run", "arrays"])
def test_what_is_taken_lies_where_the_state_lies(run, kind):
    mesh = Mesh(np.array(jax.devices()[:4]), ("fsdp",))
    split = NamedSharding(mesh, P("fsdp"))

    def shardings(state):
        whole = NamedSharding(mesh, P())
        return jax.tree.map(lambda leaf: split if leaf.shape[:1] == (16,) else whole, state)

    state = init_state(recipe(), jax.random.key(0), shardings=shardings)
    workdir, saved = run
    stored = init_from.in_run(workdir, ema=None)
    if kind == "arrays":
        arrays = jax.tree.map(np.asarray, named(saved.params))
        stored = init_from.in_arrays("x", arrays)
    begun = init_from.start(state, stored, init_from.plan(stored, state.params).take)
    assert equal(begun.params, saved.params)
    assert begun.params["body"]["in"]["kernel"].sharding == split


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("boddy/*", "unknown pattern of parameters 'boddy/\\*'"),
        ("*,!tail", "unknown pattern of parameters 'tail'"),
        ("new", r"has no parameter of the names wanted \(new\), only body/bias, body/in"),
        ("*", r'head/kernel has the shape \(8, 4\), and in this network \(8, 5\); .* "\*,!head'),
    ],
)
def test_what_does_not_fit_is_refused(run, names, message):
    params = {**init_params(jax.random.key(0), 5), "new": jnp.zeros(2)}
    with pytest.raises(ValueError, match=message):
        init_from.plan(init_from.in_run(run[0]), params, names)
