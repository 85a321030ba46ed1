"""Scanned layers are split over `fsdp`, and no device holds more than one of them whole."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import sde_diffusion as sd
from sde_diffusion import distributed, samplers, training
from sde_diffusion.networks import DiT
from sde_diffusion.objectives import denoising_loss, of_loss
from sde_diffusion.planning import lower_sampler_step, lower_training_step

SDE, EVENT, BATCH = sd.Flow(), (4, 4, 1), 16
NETWORK = DiT(depth=2, features=64, num_heads=2, num_classes=3, remat="pointwise")


def model(params, network=NETWORK):
    return sd.from_network(SDE, network.apply, {"params": params}, "flow")


def init_params(key, network=NETWORK):
    """Parameters of which none is zero, as those of a new network are; soon compiled."""
    shapes = jax.eval_shape(network.init, key, jnp.zeros((1, *EVENT)), jnp.ones(1))["params"]
    return jax.tree.map(
        lambda leaf: jnp.sin(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape) / 8,
        shapes,
    )


def recipe(optimizer, network=NETWORK, **options):
    def loss(params, key, batch):
        return denoising_loss(key, model(params, network), batch["x"], cond=batch["label"])

    init, options = partial(init_params, network=network), training.StepOptions(**options)
    return training.Recipe(init, of_loss(loss), optimizer, (0.99,), options=options)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((8, 64, 128), P(None, "fsdp")),
        ((4096, 64, 128), P(None, "fsdp")),  # never along the layers
        ((8, 63, 128), P(None, None, "fsdp")),  # the last one if there is no other
        ((8, 16, 16), P()),  # a small layer
        ((8, 8192), P()),  # vectors
        ((8, 63, 4097), P()),  # what does not divide
    ],
)
def test_a_scanned_leaf_is_split_along_an_axis_of_its_layer(shape, spec):
    tree = {"scanned_blocks": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}}
    mesh = distributed.make_mesh(2, 4)
    split = distributed.state_shardings(mesh, tree)
    assert split["scanned_blocks"]["kernel"].spec == spec
    assert distributed.sampling_shardings(mesh, tree) == split


def test_while_sampling_everything_else_is_whole():
    leaf = jax.ShapeDtypeStruct((64, 4096), jnp.float32)
    placed = distributed.sampling_shardings(distributed.make_mesh(2, 4), {"kernel": leaf})
    assert placed["kernel"].spec == P()


def trained(mesh):
    """(parameters, metrics) after an update of two parts."""
    made = recipe(optax.sgd(1.0), accumulate=2)
    rule = partial(distributed.state_shardings, mesh)
    rng = np.random.default_rng(0)
    batches = {
        "x": rng.standard_normal((1, BATCH, *EVENT)).astype(np.float32),
        "label": rng.integers(3, size=(1, BATCH)),
    }
    state = training.init_state(made, jax.random.key(0), shardings=rule)
    step = training.step_on_mesh(mesh, made).step
    state, metrics = step(state, jax.random.key(1), distributed.place_batches(mesh, batches))
    return jax.device_get((state.params, metrics))


def test_an_update_with_split_layers_is_that_of_one_device():
    one = trained(distributed.make_mesh(devices=jax.devices()[:1]))
    many = trained(distributed.make_mesh(2, 4))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), many, one)


def test_samples_and_their_derivatives_with_split_layers_are_those_of_one_device():
    params = jax.jit(init_params)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (BATCH, *EVENT))
    labels = jnp.arange(BATCH) % 3

    @jax.jit
    def pushed(model):
        """Samples after a step, and their change in a direction, as likelihoods need it."""
        return jax.jvp(lambda x: model(x, 0.7, labels).x0, (x,), (x,))

    mesh = distributed.make_mesh(1, 8)
    placed = jax.device_put(params, distributed.sampling_shardings(mesh, params))
    many, one = pushed(distributed.spread(model(placed), mesh)), pushed(model(params))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), many, one)


# ---- What a device holds. A layer has 18 features^2 parameters in matrices.

DEVICES, DEPTH = 8, 16
WIDE = NETWORK.clone(features=128, depth=DEPTH)
LAYER = 4 * 18 * WIDE.features**2  # bytes
PART = DEPTH * LAYER / DEVICES


def lowered_step():
    batch = {
        "x": jax.ShapeDtypeStruct((BATCH, *EVENT), jnp.float32),
        "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
    }
    adam = training.make_optimizer("adam", learning_rate=1e-3, clip_norm=1.0)
    return lower_training_step(distributed.make_mesh(1, DEVICES), batch, recipe(adam, WIDE))


def lowered_sampling():
    return lower_sampler_step(
        distributed.make_mesh(1, DEVICES),
        partial(model, network=WIDE),
        jax.eval_shape(partial(init_params, network=WIDE), jax.random.key(0)),
        (BATCH, *EVENT),
        solver=samplers.DDIM(),
        grid=sd.grids.uniform(SDE, 2, t_max=0.9),
        cond=jax.ShapeDtypeStruct((BATCH,), jnp.int32),
    )


@pytest.mark.parametrize(
    ("lower", "kept", "temporary"),
    [
        # Parameters, two moments and the average are kept, and the gradient for a while. Beside it
        # a CPU copies one of them.
        (lowered_step, 4, 2),
        (lowered_sampling, 1, 1),
    ],
)
def test_a_device_holds_an_nth_of_every_layer_and_one_whole(lower, kept, temporary):
    compiled = lower().compile()
    memory = compiled.memory_analysis()
    # With the vectors and the embeddings, which are whole on every device.
    assert kept * PART < memory.argument_size_in_bytes < 1.2 * kept * PART
    # A layer as it is gathered, once more in the layout of a product, and its gradient.
    assert memory.temp_size_in_bytes < temporary * PART + 4 * LAYER < 0.6 * DEPTH * LAYER

    shapes = re.findall(r"= \(?f32\[([\d,]*)\]\S* all-gather", compiled.as_text())
    sizes = [np.prod([int(n) for n in shape.split(",")]) for shape in shapes]
    assert max(sizes) == 6 * WIDE.features**2  # the largest matrix of a layer
