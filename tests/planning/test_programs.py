"""The planned programs are those that run, with the costs of data parallelism and FSDP."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sde_diffusion import distributed, grids, samplers, sdes, training
from sde_diffusion.distributed import make_mesh
from sde_diffusion.model import from_eps
from sde_diffusion.networks import MLP
from sde_diffusion.objectives import of_loss
from sde_diffusion.planning import (
    compile_program,
    estimate,
    lower_sampler_step,
    lower_training_step,
    named,
)

EVENT = (16,)
NETWORK = MLP(features=256, num_blocks=1)


def init_params(key):
    return NETWORK.init(key, jnp.zeros((1, *EVENT)), jnp.ones(1))["params"]


def loss_fn(params, key, batch):
    noise = jax.random.normal(key, batch["x"].shape)
    told = NETWORK.apply({"params": params}, batch["x"] + noise, jnp.ones(len(noise)))
    return jnp.sum((told - noise) ** 2, axis=-1)


RECIPE = training.Recipe(init_params, of_loss(loss_fn), optax.adam(1e-3), (0.99,))


def lowered_step(mesh, batch_size):
    batch = {"x": jax.ShapeDtypeStruct((batch_size, *EVENT), jnp.float32)}
    return lower_training_step(mesh, batch, RECIPE)


@functools.cache
def planned_step(mesh, batch_size):
    return compile_program(lowered_step(mesh, batch_size), mesh.size)


def num_parameters():
    abstract = jax.eval_shape(init_params, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(abstract))


def test_the_planned_step_is_the_one_that_train_runs():
    mesh = make_mesh(2, 4)
    step = training.step_on_mesh(mesh, RECIPE).step
    rule = functools.partial(distributed.state_shardings, mesh)
    state = training.init_state(RECIPE, jax.random.key(0), shardings=rule)
    batches = distributed.place_batches(mesh, {"x": np.zeros((1, 64, *EVENT), np.float32)})
    runs = step.lower(state, jax.random.key(1), batches)
    assert lowered_step(mesh, 64).as_text() == runs.as_text()


def test_a_data_parallel_step_sends_the_gradients_once_and_nothing_that_grows_with_the_batch():
    few, many = (planned_step(make_mesh(), size) for size in (64, 512))
    (gradients,) = few.collectives
    assert gradients.kind == "all-reduce"
    assert 0 <= gradients.bytes / 4 - num_parameters() <= 2  # and the loss
    assert many.collectives == few.collectives
    assert many.flops > 5 * few.flops


def test_under_fsdp_a_device_holds_an_nth_of_parameters_optimizer_and_average():
    whole, parts = (planned_step(make_mesh(fsdp=fsdp), 64) for fsdp in (1, 8))
    batch = 64 // 8 * 16 * 4
    state = 4 * 4 * num_parameters()  # the parameters, two moments and one average
    assert whole.arguments - batch == pytest.approx(state, rel=0.001)
    assert parts.arguments - batch == pytest.approx(state / 8, rel=0.1)  # biases stay whole


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    with pytest.raises(ValueError, match="12 is not a multiple of the 8 devices"):
        lowered_step(make_mesh(), 12)


WIDTH = 512  # so that drawing noise costs less than an evaluation


def planned_sampler(solver, grid=None, mesh=None):
    sde, mesh = sdes.VP(), mesh or make_mesh()

    def model(params):
        return from_eps(sde, lambda x, t: x @ params)

    lowered = lower_sampler_step(
        mesh,
        model,
        jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32),
        (32, WIDTH),
        solver=solver,
        grid=grids.uniform(sde, 10) if grid is None else grid,
        cond=None,
    )
    return compile_program(lowered, mesh.size)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp_2m", "unipc", "sde_dpmpp_2m"])
def test_a_step_of_a_sampler_costs_its_evaluations_and_sends_nothing(name):
    solver = samplers.named(name)
    program = planned_sampler(solver)
    evaluation = 2 * 32 // 8 * WIDTH**2
    assert program.flops // evaluation == solver.evaluations
    assert program.collectives == ()


def test_a_predictor_with_a_corrector_evaluates_twice():
    solver = samplers.PredictorCorrector(samplers.named("ddim"), samplers.CORRECTORS["langevin"]())
    assert planned_sampler(solver).flops // (2 * 32 // 8 * WIDTH**2) == 2


def test_a_step_is_compiled_for_an_absent_tpu():
    pytest.importorskip("libtpu", reason="a TPU's compiler is in the extra `tpu`")
    topology = named("v5e:2x2")
    program = planned_step(make_mesh(devices=topology.devices), 64)
    assert program.devices == 4
    assert program.cycles > 0
    assert [each.kind for each in program.collectives] == ["all-reduce"]
    assert 0 < program.arguments < program.peak < topology.chip.memory
    time = estimate(program, topology.chip)
    assert 0 < time.floor <= time.estimate < 1e-3
