"""The text of a compiled program: its instructions, and what they say of themselves."""

import math
import re
from typing import NamedTuple


class Instruction(NamedTuple):
    """`%name = shape opcode(%operand, ...)`, and the whole line."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    line: str


class Array(NamedTuple):
    """bytes of an array, and whether it lies in main memory rather than in the chip itself."""

    bytes: float
    in_main_memory: bool


def instructions(text: str) -> list[Instruction]:
    """Those of every computation, in the text's order."""
    return [found for line in text.splitlines() if (found := _instruction(line)) is not None]


def executed(text: str) -> list[Instruction]:
    """Those of the main computation, and of the bodies of its loops and branches.

    Not of what is inside fusions, reductions and the like: an instruction stands for these.
    """
    bodies = {
        name: instructions(body)
        for name, body in re.findall(
            r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE
        )
    }
    (main,) = re.findall(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    found, names = [], [main]
    while names:
        for instruction in bodies[names.pop()]:
            found.append(instruction)
            if instruction.opcode in ("while", "conditional", "call"):
                names += [name for name in called(instruction) if name in bodies]
    return found


def called(instruction: Instruction) -> list[str]:
    """The computations that an instruction runs."""
    attributes = r"(?:body|condition|to_apply|\w+_computations?)=\{?((?:%?[\w.\-]+(?:, )?)+)"
    return re.findall(r"[\w.\-]+", " ".join(re.findall(attributes, instruction.line)))


def arrays(shape: str) -> list[Array]:
    """The arrays of a shape: one, or a tuple's. A layout with S(n), n not 0, is on the chip."""
    return [
        Array(
            _item_bytes(kind) * math.prod(int(n) for n in sizes.split(",") if n),
            re.search(r"S\([1-9]\d*\)", layout) is None,
        )
        for kind, sizes, layout in re.findall(r"(\w+)\[([\d,<=]*)\](\{[^}]*\})?", shape)
    ]


def channel(line: str) -> int | None:
    """The number of the channel that the collective of a line goes by."""
    found = re.search(r"channel_id=(\d+)", line)
    return int(found[1]) if found else None


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


def _instruction(line: str) -> Instruction | None:
    match = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if match is None:
        return None
    rest = line[match.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, arguments = rest.partition("(")
    operands = re.findall(r"%([\w.\-]+)", arguments[: _closing("(" + arguments)])
    return Instruction(match[1], shape, opcode, tuple(operands), line)


def _closing(text: str) -> int:
    """Where the bracket closes that the text starts with."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place
    raise ValueError(f"no closing bracket: {text[:80]}")


def _item_bytes(kind: str) -> float:
    if kind in ("token", "opaque"):
        return 0
    bits = re.search(r"\d+", kind)
    return int(bits[0]) / 8 if bits else 1  # pred
