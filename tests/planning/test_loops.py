"""The body of a loop counts as often as it runs."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sde_diffusion.distributed import make_mesh
from sde_diffusion.planning import compile_program, hlo, loops, named

LOOP = """
%body (state: (s32[], f32[8], s32[])) -> (s32[], f32[8], s32[]) {{
  %state = (s32[], f32[8]{{0}}, s32[]) parameter(0)
  %counter = s32[] get-tuple-element(%state), index=0
  %x = f32[8]{{0}} get-tuple-element(%state), index=1
  %by = s32[] get-tuple-element(%state), index=2
  %next = s32[] {update}(%counter, %by)
  %y = f32[8]{{0}} negate(%x)
  ROOT %after = (s32[], f32[8]{{0}}, s32[]) tuple(%next, %y, %by)
}}

%condition (state: (s32[], f32[8], s32[])) -> pred[] {{
  %last = s32[] constant({last})
  %given = (s32[], f32[8]{{0}}, s32[]) parameter(0)
  %now = s32[] get-tuple-element(%given), index=0
  ROOT %less = pred[] compare(%now, %last), direction={direction}
}}

ENTRY %main (x0: f32[8], n: s32[]) -> f32[8] {{
  %x0 = f32[8]{{0}} parameter(0)
  %n = s32[] parameter(1)
  %c = s32[] constant({first})
  %first = s32[] copy(%c)
  %step = s32[] constant({step})
  %before = (s32[], f32[8]{{0}}, s32[]) tuple({first_name}, %x0, %step)
  %loop = (s32[], f32[8]{{0}}, s32[]) while(%before), condition=%condition, body=%body{written}
  ROOT %result = f32[8]{{0}} get-tuple-element(%loop), index=1
}}
"""
UPWARD = {
    "first": 0,
    "last": 7,
    "step": 1,
    "update": "add",
    "direction": "LT",
    "first_name": "%first",
    "written": "",
}


def rounds(text):
    """The rounds of the loops of a text."""
    found = loops.runs(hlo.parse(text))
    return [run.rounds for run in found if run.instruction.opcode == "while"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 7),
        ({"last": 0}, 0),
        ({"step": 3}, 3),
        ({"direction": "LE"}, 8),
        ({"first": 7, "last": 0, "update": "subtract", "direction": "GT"}, 7),
        ({"first": 1, "last": 100, "step": 2, "update": "multiply"}, 7),
        ({"written": ', backend_config={"known_trip_count":{"n":"5"}}'}, 5),
        ({"first_name": "%n"}, None),  # an argument of the program
        ({"step": 0}, None),  # without an end
    ],
)
def test_the_rounds_of_a_loop_are_those_of_its_counter(changes, expected):
    assert rounds(LOOP.format(**UPWARD | changes)) == [expected]


def test_a_loop_inside_a_loop_runs_as_often_as_both_together():
    def function(x):
        def outer(x, _):
            return jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y) @ y, x) + 1.0, None

        return jax.lax.scan(outer, x, length=5)[0]

    x = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    program = compile_program(jax.jit(function).lower(x), 1)
    assert program.loops == (5, 3)
    assert program.flops == pytest.approx(5 * (3 * 2 * 16**3 + 16**2), rel=0.01)


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    def function(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 1.0, lambda x: x @ x, x)

    x = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    program = compile_program(jax.jit(function).lower(x), 1)
    assert program.loops == (None,)
    assert 2 * 16**3 <= program.flops < 2.2 * 16**3


WIDTH, ROWS, PARTS = 128, 64, 4


@functools.cache
def stack_of_layers(depth, topology):
    """The gradient through `depth` layers, each gathered from four devices where it is used."""
    mesh = make_mesh(1, PARTS, devices=named(topology).devices[:PARTS])
    split, whole = NamedSharding(mesh, P(None, "fsdp")), NamedSharding(mesh, P())

    def layer(x, weights):
        weights = jax.lax.with_sharding_constraint(weights, whole)
        return jnp.tanh(x @ weights), None

    def loss(stack, x):
        x, _ = jax.lax.scan(jax.checkpoint(layer), x, stack)
        return jnp.sum(x**2)

    stack = jax.ShapeDtypeStruct((depth, WIDTH, WIDTH), jnp.float32, sharding=split)
    x = jax.ShapeDtypeStruct(
        (PARTS * ROWS, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P("fsdp"))
    )
    lowered = jax.jit(jax.grad(loss), out_shardings=split).lower(stack, x)
    return compile_program(lowered, PARTS)


TPU = pytest.param(
    "v5e:2x2",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="a TPU's compiler is in the extra `tpu`"
    ),
)


@pytest.mark.parametrize("topology", ["cpu:8", TPU])
def test_the_costs_of_scanned_layers_grow_with_their_number(topology):
    few, more, most = (stack_of_layers(depth, topology) for depth in (4, 8, 16))
    assert (few.loops, most.loops) == ((4, 4), (16, 16))
    for cost in ("flops", "bytes_moved", "cycles"):
        a, b, c = (getattr(program, cost) for program in (few, more, most))
        if a is None:  # a CPU's compiler gives no cycles
            continue
        assert c - b == pytest.approx(2 * (b - a), rel=0.1), cost
        assert c > 2.5 * a, cost
    # Two products forward, with the one that is computed again, and two backward.
    layer = 2 * ROWS * WIDTH**2
    assert most.flops - few.flops == pytest.approx(12 * 4 * layer, rel=0.05)


@pytest.mark.parametrize("topology", ["cpu:8", TPU])
def test_a_scanned_layer_sends_its_parameters_twice_and_its_gradient_once(topology):
    program = stack_of_layers(8, topology)
    sent = {each.kind: each for each in program.collectives}
    assert sent["all-gather"].count == 2 * 8
    summed = sent.get("reduce-scatter") or sent["all-reduce"]
    assert summed.count == 8
    assert summed.bytes == 8 * 4 * WIDTH**2


def test_the_memory_of_scanned_layers_is_that_of_their_parameters_and_activations():
    few, most = (stack_of_layers(depth, "cpu:8") for depth in (4, 16))
    # Parameters and gradients in quarters, two copies of which the loops make, and activations.
    layer = 4 * (4 * WIDTH**2 // PARTS + ROWS * WIDTH)
    assert most.peak - few.peak <= 12 * layer


def test_scanned_layers_cost_what_the_same_layers_do_one_by_one():
    def scanned(stack, x):
        return jax.lax.scan(lambda x, weights: (jnp.tanh(x @ weights), None), x, stack)[0]

    def one_by_one(stack, x):
        for weights in stack:
            x = jnp.tanh(x @ weights)
        return x

    shapes = [(6, WIDTH, WIDTH), (ROWS, WIDTH)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    loop, unrolled = (
        compile_program(jax.jit(function).lower(*arguments), 1)
        for function in (scanned, one_by_one)
    )
    assert loop.loops == (6,)
    assert loop.flops == pytest.approx(unrolled.flops, rel=0.001)
