"""What a compiled program costs, by the compiler's own account."""

import re
import time
from dataclasses import dataclass

import jax

from sde_diffusion.compilation_cache import without_compilation_cache
from sde_diffusion.planning import hlo

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# What moves nothing: names for what is there already, and the ends of what was begun.
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "while",
    "conditional",
    "call",
    "partition-id",
    "replica-id",
}
# What reads no more of its operand than it gives, and where in its shape that is.
SLICES = {"slice": 0, "dynamic-slice": 0, "gather": 0, "copy-start": 0, "slice-start": 1}


class DoesNotFit(Exception):
    """The compiler found no way to hold the program in a device's memory; it says by how much."""


@dataclass(frozen=True)
class Collective:
    """Messages of one kind: how many, the bytes of the whole arrays that they reduce or gather,
    the bytes that each device sends for it at least, and whether to other slices of TPUs."""

    kind: str
    count: int
    bytes: float
    sent: float
    between_slices: bool = False


@dataclass(frozen=True)
class Program:
    """The costs of one run of a program on one of its devices.

    arguments, outputs, temporaries, peak: bytes of its memory; an output that takes the place of
        an argument counts in both, but not in the peak.
    flops: operations, a multiplication and an addition two.
    bytes_accessed: of the operands and results of all instructions, wherever they lie.
    bytes_moved: of those in main memory alone.
    collectives: by kind.
    cycles: the sum of the compiler's `estimated_cycles`; None where it gives none.
    loops: `while` loops that are left in the program. The body of each counts once in all of these,
        for the compiler does not say how often it runs.
    """

    devices: int
    compile_seconds: float
    arguments: int
    outputs: int
    temporaries: int
    peak: int
    flops: float
    bytes_accessed: float
    bytes_moved: float
    collectives: tuple[Collective, ...]
    cycles: int | None
    loops: int


def compile_program(lowered: jax.stages.Lowered, devices: int) -> Program:
    """Compiles for `devices` devices, and reads off what it costs.

    Raises DoesNotFit where the compiler finds that the device's memory is too small.
    """
    start = time.perf_counter()
    try:
        with without_compilation_cache():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(_first_sentence(str(error))) from error
    seconds = time.perf_counter() - start
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    assert memory is not None  # all compilers here tell
    assert cost is not None
    assert text is not None
    return Program(
        devices=devices,
        compile_seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=memory.peak_memory_in_bytes,
        flops=cost.get("flops", 0.0),
        bytes_accessed=cost.get("bytes accessed", 0.0),
        bytes_moved=bytes_moved(text),
        collectives=collectives(text, devices),
        cycles=estimated_cycles(text),
        loops=len(re.findall(r" while\(", text)),
    )


def estimated_cycles(text: str) -> int | None:
    """The sum of what the compiler writes beside each instruction; None if it writes nothing."""
    found = re.findall(r'"estimated_cycles":"(\d+)"', text)
    return sum(map(int, found)) if found else None


def bytes_moved(text: str) -> float:
    """Bytes between main memory and the chip.

    Of each instruction the operands and results whose layout is not in the chip's own memory. A
    slice reads what it gives; a fusion that reads a part of its operand counts as reading all.
    """
    program = hlo.executed(text)
    arrays = {each.name: hlo.arrays(each.shape) for each in program}
    total = 0.0
    for each in program:
        if each.opcode in FREE or each.opcode.endswith("-done"):
            continue
        read = [array for name in each.operands for array in arrays.get(name, [])]
        if each.opcode in SLICES and read:
            made = arrays[each.name][SLICES[each.opcode]]
            total += made.bytes * (read[0].in_main_memory + made.in_main_memory)
            continue
        total += _in_main_memory(read)
        # The shape of what is begun holds the operands as well.
        begun = each.opcode.endswith("-start") or each.opcode == "send"
        again = _in_main_memory(read) if begun else 0.0
        total += max(_in_main_memory(arrays[each.name]) - again, 0.0)
    return total


def _in_main_memory(arrays: list[hlo.Array]) -> float:
    return sum(array.bytes for array in arrays if array.in_main_memory)


def collectives(text: str, devices: int) -> tuple[Collective, ...]:
    """The messages of a program, by kind; those between slices last."""
    found: dict[tuple[bool, str], list[tuple[float, float]]] = {}
    seen = set()
    for instruction in hlo.instructions(text):
        if instruction.opcode == "send" and (told := hlo.between_slices(instruction.line)):
            kind, slices = told
            found.setdefault((True, kind), []).append(_between_slices(instruction, kind, slices))
            continue
        kind = instruction.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        # One that is hidden behind several fusions is written in each of them, on one channel.
        channel = hlo.channel(instruction.line)
        if channel is not None and channel in seen:
            continue
        seen.add(channel)
        group = hlo.group_size(instruction.line, devices)
        found.setdefault((False, kind), []).append(_whole_and_sent(instruction, kind, group))
    return tuple(
        Collective(
            kind,
            len(each),
            sum(whole for whole, _ in each),
            sum(sent for _, sent in each),
            between_slices,
        )
        for (between_slices, kind), each in sorted(found.items())
    )


def _whole_and_sent(instruction: hlo.Instruction, kind: str, group: int) -> tuple[float, float]:
    sizes = [array.bytes for array in hlo.arrays(instruction.shape)]
    total = sum(sizes)
    started = instruction.opcode.endswith("-start")
    if kind == "all-gather" and started:  # the shape holds the parts as well as the whole
        total *= group / (group + 1)
    if kind == "collective-permute" and started:  # what goes, what comes, and two counters
        total = sizes[0]
    if kind == "reduce-scatter":  # the shape is that of a part
        total *= group
    return total, total * _part_sent(kind, group)


def _between_slices(instruction: hlo.Instruction, kind: str, slices: int) -> tuple[float, float]:
    # Sent is the whole, but for a gathering. (A second array of the shape is a counter.)
    whole = hlo.arrays(instruction.shape)[0].bytes * (slices if kind == "all-gather" else 1)
    return whole, whole * _part_sent(kind, slices)


def _part_sent(kind: str, group: int) -> float:
    """The part of the whole that a device of a group sends at least."""
    # Around a ring: Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms".
    times = {"all-reduce": 2 * _rest(group), "collective-permute": 1.0, "collective-broadcast": 1.0}
    return times.get(kind, _rest(group))


def _rest(group: int) -> float:
    """(N - 1) / N, the part of an array that a device of N must send."""
    return (group - 1) / group


def _first_sentence(message: str) -> str:
    return re.sub(r"^RESOURCE_EXHAUSTED: (E\d+: )?", "", message).splitlines()[0]
