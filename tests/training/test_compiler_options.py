"""Options of the compiler: read from a config's text, refused before a run, and passed on."""

import jax
import jax.numpy as jnp
import optax
import pytest

from sde_diffusion import distributed, training
from sde_diffusion.objectives import of_loss
from sde_diffusion.training.compiler_options import check_compiler_options, read_compiler_options


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        ("xla_a=1", {"xla_a": "1"}),
        ("xla_a=1, xla_b=x=y", {"xla_a": "1", "xla_b": "x=y"}),
    ],
)
def test_options_are_names_and_values_between_commas(text, options):
    assert read_compiler_options(text) == options


@pytest.mark.parametrize("text", ["xla_a", "xla_a=", "=1", "xla_a=1,xla_b"])
def test_an_option_without_a_name_or_a_value_is_refused(text):
    with pytest.raises(ValueError, match="is not name=value"):
        read_compiler_options(text)


def test_an_option_that_the_compiler_does_not_know_is_refused_by_name():
    with pytest.raises(ValueError, match=r"No such compile option: 'xla_no_such' \(cpu\)"):
        check_compiler_options({"xla_no_such": "1"}, jax.devices()[0])


def recipe(**compiler_options):
    return training.Recipe(
        lambda key: jnp.zeros(3),
        of_loss(lambda params, key, batch: jnp.sum(params**2) + batch),
        optax.sgd(1.0),
        ema_rates=(),
        options=training.StepOptions(compiler_options=compiler_options),
    )


def test_a_step_is_compiled_with_them():
    state = training.init_state(recipe(), jax.random.key(0))
    arguments = state, jax.random.key(0), jnp.zeros((1, 2))
    known, unknown = (
        training.make_step(recipe(**{name: "0"})).lower(*arguments)
        for name in ("xla_backend_optimization_level", "xla_no_such")
    )
    known.compile()
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such"):
        unknown.compile()


def test_a_step_on_a_mesh_with_an_unknown_one_is_refused_before_it_is_made():
    mesh = distributed.make_mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="No such compile option"):
        training.step_on_mesh(mesh, recipe(xla_no_such="1"))
