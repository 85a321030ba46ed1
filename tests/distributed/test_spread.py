"""Samples and likelihoods over many devices: by sharding, and by pmap in code that has it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import distributed, objectives, samplers, training
from sde_diffusion.density import Exact, decode, encode, log_likelihood, variational_bound
from sde_diffusion.networks import MLP

KEY, NUM, EVENT = jax.random.key(0), 16, (6,)
SDE, DDIM = sd.VP(), samplers.DDIM()
GRID = sd.grids.log_snr(SDE, 6)
NETWORK = MLP(features=16, num_blocks=1)
PARAMS = NETWORK.init(KEY, jnp.zeros((1, *EVENT)), jnp.zeros(1))["params"]
X = jax.random.normal(KEY, (NUM, *EVENT))


def model(params, sde=SDE):
    return sd.from_network(
        sde, NETWORK.apply, {"params": params}, sd.parameterization.PARAMETERIZATIONS["ddpm"]()
    )


def draw(model, solver, num=NUM, first=0):
    return sd.sample(KEY, model, (num, *EVENT), solver=solver, grid=GRID, first=first).x


def by_device(x):
    return jnp.reshape(x, (8, -1, *x.shape[1:]))


@pytest.mark.parametrize("fsdp", [1, 8])
def test_samples_on_eight_devices_are_those_of_one(fsdp):
    mesh = distributed.make_mesh(fsdp=fsdp)
    params = jax.device_put(PARAMS, distributed.replicated(mesh))
    for solver in (samplers.DPMSolverPP2M(), samplers.Ancestral()):
        spread = draw(distributed.spread(model(params), mesh), solver)
        assert spread.sharding.is_equivalent_to(distributed.shard_samples(mesh), spread.ndim)
        np.testing.assert_allclose(spread, draw(model(PARAMS), solver), rtol=1e-4, atol=1e-5)


def test_the_devices_send_each_other_nothing_while_they_sample():
    mesh = distributed.make_mesh()
    params = jax.device_put(PARAMS, distributed.replicated(mesh))
    compiled = jax.jit(lambda params: draw(distributed.spread(model(params), mesh), DDIM))
    text = compiled.lower(params).compile().as_text()
    assert "bf16[2,6]" in text or "f32[2,6]" in text  # two samples on each device
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert f" {collective}(" not in text


def test_drawing_again_on_the_same_mesh_traces_nothing():
    traces = []

    def denoiser(x, t):
        traces.append(1)
        return x

    def again():
        before = len(traces)
        draw(distributed.spread(sd.from_x0(SDE, denoiser), distributed.make_mesh()), DDIM)
        return len(traces) - before

    assert again() > 0
    assert again() == 0


def test_a_likelihood_on_eight_devices_is_that_of_one():
    mesh = distributed.make_mesh()

    def of(model, x):
        solver = samplers.RK4()
        return log_likelihood(KEY, model, x, solver=solver, grid=GRID, divergence=Exact())

    params = jax.device_put(PARAMS, distributed.replicated(mesh))
    x = jax.device_put(X, distributed.shard_samples(mesh))
    ours = of(distributed.spread(model(params), mesh), x).log_prob
    np.testing.assert_allclose(ours, of(model(PARAMS), X).log_prob, rtol=1e-4)


# Every solver compiles twice here: the time of this test is theirs.
@pytest.mark.slow
@pytest.mark.parametrize("name", samplers.SOLVERS)
def test_every_solver_gives_under_pmap_the_samples_of_one_device(name):
    solver, share = samplers.named(name), NUM // 8
    squash = sd.from_x0(SDE, lambda x, t: jnp.tanh(x))  # compiled in no time
    ours = jax.pmap(lambda first: draw(squash, solver, share, first))(share * jnp.arange(8))
    alone = draw(squash, solver)
    np.testing.assert_allclose(ours.reshape(alone.shape), alone, rtol=1e-3, atol=1e-4)


def test_a_likelihood_under_pmap_is_that_of_one_device():
    def of(x, first):
        solver = samplers.RK4()
        return log_likelihood(
            KEY, model(PARAMS), x, solver=solver, grid=GRID, divergence=Exact(), first=first
        ).log_prob

    ours = jax.pmap(of)(by_device(X), NUM // 8 * jnp.arange(8))
    np.testing.assert_allclose(jnp.ravel(ours), of(X, 0), rtol=1e-4)


def test_a_variational_bound_under_pmap_is_that_of_one_device():
    def of(x, first):
        return variational_bound(KEY, model(PARAMS), x, num=4, first=first).log_prob

    ours = jax.pmap(of)(by_device(X), NUM // 8 * jnp.arange(8))
    np.testing.assert_allclose(jnp.ravel(ours), of(X, 0), rtol=1e-4)


@pytest.mark.parametrize("function", [encode, decode])
def test_encoding_and_decoding_under_pmap_are_those_of_one_device(function):
    def of(x):
        return function(model(PARAMS), x, solver=samplers.RK4(), grid=GRID)

    ours = jax.pmap(of)(by_device(X)).reshape(X.shape)
    np.testing.assert_allclose(ours, of(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", samplers.CORRECTORS)
def test_every_corrector_gives_under_pmap_the_samples_of_one_device(name):
    solver, share = samplers.PredictorCorrector(DDIM, samplers.CORRECTORS[name]()), NUM // 8
    squash = sd.from_x0(SDE, lambda x, t: jnp.tanh(x))
    ours = jax.pmap(lambda first: draw(squash, solver, share, first))(share * jnp.arange(8))
    alone = draw(squash, solver)
    np.testing.assert_allclose(ours.reshape(alone.shape), alone, rtol=1e-3, atol=1e-4)


LOSSES = {
    "denoising": (objectives.denoising_loss, SDE),
    "ddpm": (partial(objectives.ddpm_loss, num_scales=100), SDE),
    "smld": (partial(objectives.smld_loss, num_scales=100), sd.VE()),
}


@pytest.mark.parametrize(("loss", "sde"), LOSSES.values(), ids=LOSSES)
def test_the_mean_of_a_losss_gradients_under_pmap_is_that_of_the_whole_batch(loss, sde):
    # one key a device: what each device computes, one device computes
    keys = jax.random.split(KEY, 8)

    def mean_loss(params, key, x):
        return jnp.mean(loss(key, model(params, sde), x))

    def averaged(key, x):
        return jax.lax.pmean(jax.value_and_grad(mean_loss)(PARAMS, key, x), "devices")

    ours = jax.tree.map(lambda leaf: leaf[0], jax.pmap(averaged, "devices")(keys, by_device(X)))
    alone = jax.vmap(jax.value_and_grad(mean_loss), (None, 0, 0))(PARAMS, keys, by_device(X))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b.mean(0), rtol=1e-4, atol=1e-5), ours, alone
    )


def test_a_training_step_under_pmap_is_that_of_one_device():
    optimizer = training.make_optimizer("adam", learning_rate=1e-2)

    def loss_fn(params, key, batch):
        return objectives.denoising_loss(key, model(params), batch)

    recipe = training.Recipe(lambda key: PARAMS, objectives.of_loss(loss_fn), optimizer, (0.9,))
    step, new = training.make_step(recipe), partial(training.init_state, recipe, KEY)
    # a replica on each device, with the same data: each must make the update of one device
    states = jax.tree.map(lambda leaf: np.stack([leaf] * 8), jax.device_get(new()))
    ours, _ = jax.pmap(step, in_axes=(0, None, None))(states, KEY, X[None])
    alone, _ = step(new(), KEY, X[None])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[3], b, rtol=1e-4, atol=1e-6), ours, alone
    )
