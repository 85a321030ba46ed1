"""The operations of an instruction are those that the compiler counts; what it touches is read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sde_diffusion.planning import hlo, loops, operations

IMAGES = (2, 12, 12, 8)


def conv(x, w, strides=(1, 1), padding="SAME", **settings):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=layout, **settings)


def squares(function):
    return lambda *arguments: jnp.sum(function(*arguments) ** 2)


def attention(q, k, v):
    return jax.nn.dot_product_attention(q, k, v)


HEADS = [(2, 32, 4, 8)] * 3
PROGRAMS = {
    "product": (jnp.matmul, [(24, 32), (32, 40)]),
    "batched product": (lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k), HEADS[:2]),
    "convolution": (conv, [IMAGES, (3, 3, 8, 16)]),
    "with strides": (lambda x, w: conv(x, w, (2, 2)), [IMAGES, (3, 3, 8, 16)]),
    "dilated": (lambda x, w: conv(x, w, rhs_dilation=(2, 2)), [IMAGES, (3, 3, 8, 16)]),
    "transposed": (
        lambda x, w: conv(x, w, padding=((1, 2), (1, 2)), lhs_dilation=(2, 2)),
        [IMAGES, (3, 3, 8, 16)],
    ),
    "in groups": (lambda x, w: conv(x, w, feature_group_count=4), [IMAGES, (3, 3, 2, 16)]),
    "gradient of a convolution": (
        jax.grad(squares(lambda x, w: conv(x, w, (2, 2))), argnums=(0, 1)),
        [IMAGES, (3, 3, 8, 16)],
    ),
    "gradient of groups": (
        jax.grad(squares(lambda x, w: conv(x, w, feature_group_count=4)), argnums=(0, 1)),
        [IMAGES, (3, 3, 2, 16)],
    ),
    "gradient of attention": (jax.grad(squares(attention), argnums=(0, 1, 2)), HEADS),
    "softmax": (jax.nn.softmax, [(32, 64)]),
    "variance": (lambda x: jnp.var(x, axis=-1), [(32, 64)]),
}


def compiled(function, shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program = jax.jit(function).lower(*arguments).compile()
    module = hlo.parse(program.as_text())
    return program, module, loops.runs(module)


@pytest.mark.parametrize(("function", "shapes"), PROGRAMS.values(), ids=PROGRAMS)
def test_the_operations_are_those_of_the_compilers_own_account(function, shapes):
    program, _, found = compiled(function, shapes)
    counted = sum(operations.flops(run.instruction, run.computation) for run in found)
    np.testing.assert_allclose(counted, program.cost_analysis()["flops"], rtol=1e-6)


def bytes_by_opcode(function, shapes, opcode):
    """The bytes of each executed instruction whose name holds the opcode."""
    _, module, found = compiled(function, shapes)
    return [
        operations.traffic(module, run.computation, run.instruction).bytes
        for run in found
        if run.fusion is None and opcode in run.instruction.name
    ]


def test_a_slice_reads_what_it_gives():
    def function(x, index):
        return lax.dynamic_slice(x, (index[0].astype(int), 0), (2, 64)) * 2.0

    found = bytes_by_opcode(function, [(100, 64), (1,)], "fusion")
    assert max(found) <= 2 * 2 * 64 * 4 + 16


def test_a_loop_over_a_stack_reads_and_writes_one_layer_a_round():
    def function(stack, x):
        return lax.scan(lambda x, layer: (x + layer, x * layer), x, stack)

    _, module, found = compiled(function, [(50, 1000), (1000,)])
    touched = [
        operations.traffic(module, run.computation, run.instruction).bytes
        for run in found
        if run.fusion is None and run.times == 50
    ]
    # x and the layer are read, and x and a layer of the result written, each at most twice; and
    # the counter.
    assert 4 * 4000 <= sum(touched) <= 8 * 4000 + 100
