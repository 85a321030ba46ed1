"""Kernels that a TPU's compiler gives no cycles for count with their operations and bytes."""

import jax
import jax.numpy as jnp
import pytest

from sde_diffusion.planning import compile_program, estimate, named

pytest.importorskip("libtpu", reason="a TPU's compiler is in the extra `tpu`")

from jax.experimental import pallas as pl

SIZE, BLOCK = 512, 128


def product(x, y, cost_estimate=None):
    """x @ y as a Pallas kernel, one block of the result at a time."""

    def kernel(rows, columns, out):
        out[...] = jnp.dot(rows[...], columns[...], preferred_element_type=jnp.float32)

    return pl.pallas_call(
        kernel,
        name="blocks",
        out_shape=jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32),
        grid=(SIZE // BLOCK, SIZE // BLOCK),
        in_specs=[
            pl.BlockSpec((BLOCK, SIZE), lambda i, j: (i, 0)),
            pl.BlockSpec((SIZE, BLOCK), lambda i, j: (0, j)),
        ],
        out_specs=pl.BlockSpec((BLOCK, BLOCK), lambda i, j: (i, j)),
        cost_estimate=cost_estimate,
    )(x, y)


def product_in_parts(x, y):
    """x @ y as one kernel that loops over parts of the inner dimension."""

    def kernel(rows, columns, out):
        def add_part(i, total):
            part = pl.ds(i * BLOCK, BLOCK)
            return total + jnp.dot(
                rows[:, part], columns[part, :], preferred_element_type=jnp.float32
            )

        out[...] = jax.lax.fori_loop(0, SIZE // BLOCK, add_part, jnp.zeros_like(out))

    shape = jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)
    return pl.pallas_call(kernel, name="parts", out_shape=shape)(x, y)


def planned(function, dtype=jnp.bfloat16, shape=(SIZE, SIZE)):
    topology = named("v5e:1x1")
    placed = jax.sharding.SingleDeviceSharding(topology.devices[0])
    x = jax.ShapeDtypeStruct(shape, dtype, sharding=placed)
    return compile_program(jax.jit(function).lower(x), 1), topology.chip


TOLD = pl.CostEstimate(flops=1000, bytes_accessed=0, transcendentals=0)


@pytest.mark.parametrize(
    ("kernel", "name", "flops"),
    [
        (product, "blocks", 2 * SIZE**3),
        (product_in_parts, "parts", 2 * SIZE**3),
        (lambda x, y: product(x, y, TOLD), "blocks", 1000),
    ],
    ids=["its products", "its products in a loop", "what its author says"],
)
def test_the_operations_of_a_pallas_kernel(kernel, name, flops):
    program, _ = planned(lambda x: kernel(x, x) + 1.0)
    (found,) = program.kernels
    assert (found.name, found.count, found.flops) == (name, 1, flops)
    assert program.flops == flops + SIZE**2


def test_a_kernel_in_a_loop_counts_as_often_as_it_runs_and_adds_to_the_estimate():
    def repeated(kernel):
        def layer(x, _):
            return kernel(x, x).astype(x.dtype), None

        return lambda x: jax.lax.scan(layer, x, length=6)[0]

    program, chip = planned(repeated(product))
    (found,) = program.kernels
    assert (found.name, found.count, found.flops) == ("blocks", 6, 2 * SIZE**3)
    assert program.flops >= 6 * 2 * SIZE**3
    time = estimate(program, chip)
    longer = max(found.flops / chip.flops, found.bytes / chip.bandwidth)
    assert time.kernels == pytest.approx(6 * longer)
    assert time.estimate >= program.cycles / chip.clock + time.kernels
    # The compiler's own product takes about as long.
    compilers, _ = planned(repeated(lambda x, y: jnp.dot(x, y)))
    assert compilers.kernels == ()
    assert time.estimate == pytest.approx(estimate(compilers, chip).estimate, rel=0.5)


def test_what_nobody_knows_the_operations_of_is_listed_as_such():
    program, _ = planned(lambda x: jnp.sort(x, axis=-1) + 1.0, jnp.float32, (64, 256))
    found = {kernel.name: kernel for kernel in program.kernels}
    assert found["sort"].flops is None
    assert found["sort"].bytes >= 64 * 256 * 4


def test_a_program_that_the_compiler_estimates_has_no_kernels():
    program, _ = planned(lambda x: jnp.tanh(x @ x))
    assert program.kernels == ()
    assert program.cycles > 0
