"""The costs that are read off a compiled program, against programs whose costs are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sde_diffusion.distributed import make_mesh
from sde_diffusion.planning import Collective, compile_program, hlo, read
from sde_diffusion.planning.collectives import group_size

N = 8


def compiled(function, *shapes, specs=None, out=None):
    """The costs of a function of float32 arrays on eight devices, each with its spec."""
    mesh = make_mesh()
    specs = specs or [P()] * len(shapes)
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    placed = None if out is None else NamedSharding(mesh, out)
    return compile_program(jax.jit(function, out_shardings=placed).lower(*arguments), mesh.size)


SPLIT = P("data")


def over_devices(function, out=SPLIT):
    """A function of each device's own part, under its collectives."""
    return jax.shard_map(function, mesh=make_mesh(), in_specs=SPLIT, out_specs=out)


@pytest.mark.parametrize(
    ("function", "kind", "whole", "sent"),
    [
        # 64 float32 on each device: 256 bytes
        (over_devices(lambda x: jax.lax.psum(x, "data"), P()), "all-reduce", 256, 2 * 256 * 7 / 8),
        (
            over_devices(lambda x: jax.lax.all_gather(x, "data")),
            "all-gather",
            8 * 256,
            8 * 256 * 7 / 8,
        ),
        (
            over_devices(lambda x: jax.lax.psum_scatter(x, "data", tiled=True)),
            "reduce-scatter",
            256,
            256 * 7 / 8,
        ),
        (
            over_devices(lambda x: jax.lax.ppermute(x, "data", [(0, 1), (1, 0)])),
            "collective-permute",
            256,
            256,
        ),
    ],
)
def test_a_collective_is_counted_with_its_bytes(function, kind, whole, sent):
    program = compiled(function, (64 * N,), specs=[SPLIT])
    (found,) = program.collectives
    assert (found.kind, found.count, found.bytes, found.sent) == (kind, 1, whole, sent)


def test_a_program_without_messages_has_no_collectives():
    assert compiled(jnp.sin, (64,)).collectives == ()


def test_a_matrix_product_of_m_n_k_is_2_m_n_k_operations():
    assert compiled(jnp.matmul, (48, 64), (64, 96)).flops == 2 * 48 * 64 * 96


def test_operations_are_those_of_one_device():
    split = compiled(jnp.matmul, (48, 64), (64, 96), specs=[SPLIT, P()], out=SPLIT)
    assert split.flops == 2 * 48 * 64 * 96 / N


def test_a_map_moves_its_operand_and_its_result():
    program = compiled(lambda x: jnp.sin(x) + 1.0, (1000,))
    assert program.bytes_moved == program.bytes_accessed == 2 * 4000


def test_memory_is_that_of_arguments_and_outputs():
    program = compiled(jnp.sin, (1000,))
    assert (program.arguments, program.outputs) == (4000, 4000)
    assert program.peak >= 8000


def test_a_compiler_that_gives_no_cycles_has_none():
    assert compiled(jnp.sin, (1000,)).cycles is None


TPU_TEXT = """
%inside (p: f32[8,128], q: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  %q = f32[8,128]{1,0:T(8,128)} parameter(1)
  ROOT %n = f32[8,128]{1,0:T(8,128)} add(%p, %q)
}

ENTRY %main (x: f32[8,128], w: f32[64,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %w = f32[64,128]{1,0:T(8,128)} parameter(1)
  %slice-start = ((f32[64,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) \
slice-start(%w), slice={[0:8], [0:128]}
  %slice-done = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  %f = f32[8,128]{1,0:T(8,128)S(1)} fusion(%x, %slice-done), kind=kLoop, calls=%inside, \
backend_config={"window_config":{"estimated_cycles":"70"}}
  %all-gather-start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[32,128]{1,0:T(8,128)}) \
all-gather-start(%f), replica_groups={{0,1,2,3}}, dimensions={0}
  %all-gather-done = f32[32,128]{1,0:T(8,128)} all-gather-done(%all-gather-start)
  ROOT %c = bf16[8,128]{1,0:T(8,128)(2,1)} copy(%f), \
backend_config={"window_config":{"estimated_cycles":"30"}}
}
"""


def costs(text, devices=4):
    """The costs of a text that the compiler's own sums say nothing about."""
    return read.costs(text, devices, 0.0, 0.0)


def test_cycles_are_summed_over_the_text():
    assert costs(TPU_TEXT)["cycles"] == 100


def test_what_stays_in_the_chips_own_memory_is_not_moved():
    tile = 8 * 128 * 4
    sliced, fused, gathered, copied = tile, tile, 4 * tile, tile / 2
    assert costs(TPU_TEXT)["bytes_moved"] == sliced + fused + gathered + copied


def between_slices(kind, sent, received):
    """A collective over four slices, as the compiler writes it."""
    target = f'_xla_megascale_target="{{1,2,3,4}}x{{0:3}}",_xla_megascale_transfer_type="{kind}"'
    rest = f"is_host_transfer=true, frontend_attributes={{{target}}}"
    return f"""
ENTRY %main (x: f32[{sent},128]) -> f32[{sent},128] {{
  %x = f32[{sent},128]{{1,0}} parameter(0)
  %after-all = token[] after-all()
  %send = (f32[{sent},128]{{1,0}}, u32[], token[]) send(%x, %after-all), {rest}
  %recv = (f32[{received},128]{{1,0}}, u32[], token[]) recv(%after-all), {rest}
  %send-done = token[] send-done(%send), {rest}
}}
"""


@pytest.mark.parametrize(
    ("text", "kind", "whole", "sent"),
    [
        (between_slices("ALL_REDUCE", 8, 8), "all-reduce", 8, 2 * 8 * 3 / 4),
        (between_slices("REDUCE_SCATTER", 8, 2), "reduce-scatter", 8, 8 * 3 / 4),
        (between_slices("ALL_GATHER", 2, 8), "all-gather", 8, 8 * 3 / 4),
    ],
)
def test_a_collective_between_slices_is_listed_apart_with_its_bytes(text, kind, whole, sent):
    (found,) = costs(text, 16)["collectives"]
    row = 128 * 4
    assert found == Collective(kind, 1, whole * row, sent * row, between_slices=True)


def test_what_is_sent_to_other_slices_is_read_once():
    moved = costs(between_slices("ALL_REDUCE", 8, 8))["bytes_moved"]
    assert moved == (8 + 8) * 128 * 4 + 2 * 4  # read, written, and two counters


def test_a_collective_in_two_halves_is_counted_once():
    (found,) = costs(TPU_TEXT)["collectives"]
    assert (found.kind, found.count, found.bytes) == ("all-gather", 1, 4 * 8 * 128 * 4)


PART = """
%{name} (p: f32[{rows},128]) -> f32[32,128] {{
  %p.{name} = f32[{rows},128]{{1,0}} parameter(0)
  ROOT %c.{name} = f32[32,128]{{1,0}} {collective}(%p.{name}), channel_id={channel}, \
replica_groups={{{{0,1,2,3}}}}, frontend_attributes={{{chain}}}
}}
"""
CALL = "  %f.{name} = f32[32,128]{{1,0}} fusion(%x), kind=kCustom, calls=%{name}\n"


def fusions(*parts):
    """A program of fusions, each (name, collective, rows of its operand, channel, chain)."""
    text, calls = "", ""
    for name, collective, rows, channel, chain in parts:
        attribute = f'chain_id="{chain}"' if chain else ""
        fields = {"collective": collective, "rows": rows, "channel": channel, "chain": attribute}
        text += PART.format(name=name, **fields)
        calls += CALL.format(name=name)
    return f"{text}\nENTRY %main (x: f32[8,128]) -> f32[8,128] {{\n  %x = f32[8,128]{{1,0}} \
parameter(0)\n{calls}}}\n"


def test_a_collective_hidden_behind_several_fusions_is_counted_once():
    first = [(name, "all-gather", 8, 1, 3) for name in ("start", "behind", "done")]
    second = [(name, "all-gather", 8, 2, 3) for name in ("start.1", "done.1")]
    (found,) = costs(fusions(*first, *second))["collectives"]
    assert (found.kind, found.count, found.bytes) == ("all-gather", 2, 2 * 4 * 8 * 128 * 4)


def test_collectives_that_share_a_channel_are_all_counted():
    # The compiler gives the combined reductions of a step the first channel.
    gathered = ("start", "all-gather", 8, 1, 3)
    reduced = [(f"all-reduce-scatter.{n}", "all-reduce", 32, 1, None) for n in (1, 2)]
    found = costs(fusions(gathered, *reduced))["collectives"]
    assert [(each.kind, each.count) for each in found] == [("all-gather", 1), ("reduce-scatter", 2)]


def test_an_all_reduce_fused_with_the_slice_that_is_kept_sends_what_a_reduce_scatter_does():
    text = fusions(("all-reduce-scatter", "all-reduce", 32, 1, None))
    (found,) = costs(text)["collectives"]
    whole = 32 * 128 * 4
    assert found == Collective("reduce-scatter", 1, whole, whole * 3 / 4)


@pytest.mark.parametrize(
    "groups",
    [
        "replica_groups={{0,1,2,3},{4,5,6,7}}",
        "replica_groups=[2,4]<=[8]",
        "replica_groups=[2,4]<=[4,2]T(1,0)",
        "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}",
        "replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}",
    ],
)
def test_the_devices_of_a_collective_are_read_in_every_notation(groups):
    assert group_size(f"%r = f32[] all-reduce(%x), {groups}, to_apply=%add", 8) == 4


def test_without_groups_all_devices_take_part():
    assert group_size("%r = f32[] all-reduce(%x), to_apply=%add", 8) == 8


def test_item_sizes_are_those_of_their_types():
    shape = "(f32[2,3]{1,0}, bf16[4]{0}, pred[5], s4[6]{0}, u32[], c64[2], f8e4m3fn[3])"
    sizes = [array.bytes for array in hlo.arrays(shape)]
    np.testing.assert_array_equal(sizes, [24, 8, 5, 3, 4, 16, 3])
