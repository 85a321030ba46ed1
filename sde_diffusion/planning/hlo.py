"""The text of a compiled program (XLA's HLO), parsed into computations and instructions.

    %name = shape opcode(%operand, ...), attribute=value, ...

A program is a set of computations. The entry computation runs first; loops, branches, fusions and
calls run the others.
"""

import math
import re
from functools import cached_property
from typing import NamedTuple


class Array(NamedTuple):
    """The bytes and elements of an array, and whether it lies in main memory or on the chip."""

    bytes: float
    elements: int
    in_main_memory: bool


class Instruction:
    """One line of a computation."""

    def __init__(self, name: str, shape: str, opcode: str, arguments: str, line: str, root: bool):
        self.name = name
        self.shape = shape
        self.opcode = opcode
        self.arguments = arguments
        self.line = line
        self.root = root

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """The names of the instructions whose results it takes."""
        return tuple(re.findall(r"%([\w.\-]+)", self.arguments))

    @cached_property
    def arrays(self) -> list[Array]:
        """The arrays of the result: one, or those of a tuple."""
        return arrays(self.shape)

    def attribute(self, name: str) -> str | None:
        """The value of an attribute, such as `index=2` or `calls=%computation`; None without it."""
        found = re.search(rf"[ ,]{name}=%?([^,\s]+)", self.line)
        return found[1].strip('"') if found else None

    def dimensions(self, name: str) -> tuple[int, ...]:
        """The value of an attribute that lists dimensions, such as `dimensions={0,1}`."""
        found = re.search(rf"[ ,]{name}=\{{([\d,]*)\}}", self.line)
        return tuple(int(each) for each in found[1].split(",") if each) if found else ()

    def computations(self, *attributes: str) -> list[str]:
        """The computations that these attributes name, each of them or a list in braces."""
        if not attributes:
            return []
        names = "|".join(attributes)
        found = re.findall(rf"[ ,](?:{names})=(\{{[^}}]*\}}|[^,\s]+)", self.line)
        return re.findall(r"[\w.\-]+", " ".join(found))


class Computation(dict[str, Instruction]):
    """The instructions of a computation by name, in the order of the text."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    @property
    def root(self) -> Instruction:
        """The instruction whose result is that of the computation."""
        marked = [each for each in self.values() if each.root]
        return marked[0] if marked else list(self.values())[-1]

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that take the result of each."""
        found: dict[str, list[Instruction]] = {name: [] for name in self}
        for each in self.values():
            for operand in each.operands:
                found.setdefault(operand, []).append(each)
        return found

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """The instructions whose results it takes."""
        return [self[name] for name in instruction.operands if name in self]


class Module(NamedTuple):
    """A program: the name of its entry computation, and all of its computations."""

    entry: str
    computations: dict[str, Computation]


def parse(text: str) -> Module:
    """The program of an HLO text. Raises ValueError for a text without an entry computation."""
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if header is not None:
            current = computations[header[2]] = Computation(header[2])
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _instruction(line)) is not None:
            current[found.name] = found
    if entry is None:
        raise ValueError(f"no entry computation in the text of a program: {text[:80]!r}")
    return Module(entry, computations)


def arrays(shape: str) -> list[Array]:
    """The arrays of a shape: one, or those of a tuple.

    A layout with S(n), n not 0, is in the chip's own memory.
    """
    found = []
    for kind, sizes, layout in re.findall(r"(\w+)\[([\d,<=]*)\](\{[^}]*\})?", shape):
        elements = math.prod(int(size) for size in re.findall(r"\d+", sizes))
        in_main_memory = re.search(r"S\([1-9]\d*\)", layout) is None
        found.append(Array(_item_bytes(kind) * elements, elements, in_main_memory))
    return found


def sizes(shape: str) -> tuple[int, ...]:
    """The sizes of the first array of a shape: (8, 128) of "bf16[8,128]{1,0}"."""
    found = re.search(r"\w+\[([\d,<=]*)\]", shape)
    return tuple(int(size) for size in re.findall(r"\d+", found[1])) if found else ()


def _instruction(line: str) -> Instruction | None:
    match = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if match is None:
        return None
    rest = line[match.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    arguments = rest[: _closing("(" + rest) - 1]
    return Instruction(match[2], shape, opcode, arguments, line, match[1] is not None)


def _closing(text: str) -> int:
    """The place of the bracket that closes the one at the start of the text."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"no closing bracket: {text[:80]}")


def _item_bytes(kind: str) -> float:
    if kind in ("token", "opaque"):
        return 0
    bits = re.search(r"\d+", kind)
    return int(bits[0]) / 8 if bits else 1  # pred
