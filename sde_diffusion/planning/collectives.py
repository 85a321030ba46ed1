"""The messages between devices in the text of a program."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from sde_diffusion.planning.hlo import Instruction
from sde_diffusion.planning.loops import Run

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# A TPU's compiler writes a reduce-scatter as a fusion of an all-reduce with the slice that is kept:
# "basically a little ReduceScatter", which takes the time of one
# (https://jax-ml.github.io/scaling-book/profiling).
REDUCE_SCATTER_FUSION = "all-reduce-scatter"


@dataclass(frozen=True)
class Collective:
    """Messages of one kind.

    count: how many are sent.
    bytes: of the whole arrays that they reduce or gather.
    sent: the bytes that each device sends for them at least.
    between_slices: whether they go to other slices of TPUs.
    """

    kind: str
    count: int
    bytes: float
    sent: float
    between_slices: bool = False


def collectives(found: list[Run], devices: int) -> tuple[Collective, ...]:
    """The messages of a program on `devices` devices, by kind; those between slices last."""
    totals: dict[tuple[bool, str], tuple[int, float, float]] = {}
    for far, kind, times, whole, sent in _messages(found, devices):
        before = totals.get((far, kind), (0, 0.0, 0.0))
        more = (times, times * whole, times * sent)
        count, size, out = (a + b for a, b in zip(before, more, strict=True))
        totals[far, kind] = (int(count), size, out)
    return tuple(
        Collective(kind, *values, between_slices=far)
        for (far, kind), values in sorted(totals.items())
    )


def is_collective(instruction: Instruction) -> bool:
    """Whether the instruction sends to other devices, or begins to."""
    return instruction.opcode.removesuffix("-start") in COLLECTIVES


def _messages(found: list[Run], devices: int) -> Iterator[tuple[bool, str, int, float, float]]:
    """(between slices, kind, times, bytes of the whole, bytes sent) of each message."""
    seen = set()
    for run in found:
        each = run.instruction
        if each.opcode == "send" and (far := between_slices(each.line)):
            kind, slices = far
            yield True, kind, run.times, *_far(each, kind, slices)
        if not is_collective(each):
            continue
        kind, size = each.opcode.removesuffix("-start"), group_size(each.line, devices)
        whole = _whole(each, size)
        if run.fusion is not None:
            chain = re.search(r'chain_id="(\d+)"', each.line)
            if run.computation.name.startswith(REDUCE_SCATTER_FUSION):
                kind = "reduce-scatter"
            if chain or kind == each.opcode:
                # One that is hidden behind several fusions is written in each of them.
                key = (run.caller, kind, each.attribute("channel_id"), chain and chain[1])
                if key in seen:
                    continue
                seen.add(key)
        yield False, kind, run.times, whole, whole * _part_sent(kind, size)


def _whole(instruction: Instruction, group: int) -> float:
    """The bytes of the whole arrays, from a shape that may be of a part or hold more than them."""
    sizes = [array.bytes for array in instruction.arrays]
    if instruction.opcode == "all-gather-start":  # the shape holds the parts as well as the whole
        return sum(sizes) * group / (group + 1)
    if instruction.opcode == "collective-permute-start":  # what goes, what comes, two counters
        return sizes[0]
    if instruction.opcode.startswith("reduce-scatter"):  # the shape is that of a part
        return sum(sizes) * group
    return sum(sizes)


def _far(instruction: Instruction, kind: str, slices: int) -> tuple[float, float]:
    # Sent is the whole, but for a gathering. (A second array of the shape is a counter.)
    whole = instruction.arrays[0].bytes * (slices if kind == "all-gather" else 1)
    return whole, whole * _part_sent(kind, slices)


def _part_sent(kind: str, group: int) -> float:
    """The part of the whole that each device of a group sends at least.

    Around a ring (Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms"): (N - 1) / N of
    an array that is gathered or scattered, and twice that where it is reduced and whole everywhere.
    """
    rest = (group - 1) / group
    return {
        "all-reduce": 2 * rest,
        "collective-permute": 1.0,
        "collective-broadcast": 1.0,
    }.get(kind, rest)


def group_size(line: str, devices: int) -> int:
    """How many devices take part together in the collective of a line."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    if listed:
        return len(listed[1].split(","))
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)  # groups, devices of each
    if iota:
        return int(iota[2])
    named = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)  # a mesh, some of its axes
    if named:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    return devices


def between_slices(line: str) -> tuple[str, int] | None:
    """(kind, slices) of the collective between TPU slices that a `send` is the first half of."""
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', line)
    slices = re.search(r'_xla_megascale_target="\{([\d,]+)\}', line)
    if kind is None or slices is None:
        return None
    return kind[1].lower().replace("_", "-"), len(slices[1].split(","))
