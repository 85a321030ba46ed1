"""How often each instruction of a program runs.

The body of a loop runs as often as the loop's counter says. XLA writes that number beside a loop
(`known_trip_count`) on CPUs and GPUs. A TPU's compiler does not, so the counter is run here: a
loop's condition, and the part of its body that the condition depends on, are a few operations on
integers.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sde_diffusion.planning.hlo import Computation, Instruction, Module

# A loop with more rounds is taken for one whose number of rounds is not known.
MOST_ROUNDS = 20_000
# The attributes by which instructions name computations that are executed like their own.
CALLS = {
    "conditional": (r"\w+_computations?",),
    "call": ("to_apply", "calls"),
    "async-start": ("calls",),
}


class Run(NamedTuple):
    """An instruction, the computation that it is in, and how often it runs.

    fusion: the executed instruction whose fusion it is inside; None where it is executed itself.
    caller: the name of the computation that is executed: the one that holds the fusion where it is
        inside one, and its own elsewhere.
    rounds: of a loop, None where they are not known.
    """

    instruction: Instruction
    computation: Computation
    times: int
    fusion: Instruction | None
    caller: str
    rounds: int | None = None


def runs(module: Module) -> list[Run]:
    """Every instruction that runs, with those inside fusions.

    All branches of a conditional count, and a loop whose number of rounds is not known counts once.
    What is inside reductions, sorts and the like is left out: an instruction stands for it.
    """
    return list(_runs(module, module.entry, 1, None))


def _runs(module: Module, name: str, times: int, arguments: "list[Value] | None") -> Iterator[Run]:
    """Those of an executed computation and of what it calls; `arguments` are its integers."""
    computation = module.computations[name]
    integers = Integers(module, computation, arguments)
    for each in computation.values():
        if each.opcode == "while":
            count = rounds(module, integers, each)
            yield Run(each, computation, times, None, name, count)
            state = _constant_state(module, integers, each)
            for other in each.computations("body", "condition"):
                yield from _runs(module, other, times * (count or 1), [state])
            continue
        yield Run(each, computation, times, None, name)
        if each.opcode == "fusion":
            yield from _inside(module, each, each, times, name)
            continue
        for other in each.computations(*CALLS.get(each.opcode, ())):
            yield from _runs(module, other, times, None)


def _inside(
    module: Module, fusion: Instruction, outermost: Instruction, times: int, caller: str
) -> Iterator[Run]:
    for name in fusion.computations("calls"):
        computation = module.computations[name]
        for each in computation.values():
            yield Run(each, computation, times, outermost, caller)
            if each.opcode == "fusion":
                yield from _inside(module, each, outermost, times, caller)


def rounds(module: Module, around: "Integers", loop: Instruction) -> int | None:
    """How often the body of a `while` instruction runs; None where that cannot be read.

    `around` are the integers of the computation that the instruction is in.
    """
    written = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.line)
    if written:
        return int(written[1])
    test, update = _condition_and_body(module, loop)
    state = around.value(loop.operands[0])
    needed = _state_of_the_counter(test, update)
    if needed is None or not isinstance(state, list):
        return None
    for count in range(MOST_ROUNDS):
        goes_on = Integers(module, test, [state]).value(test.root.name)
        if goes_on is None:
            return None
        if not goes_on:
            return count
        after = Integers(module, update, [state])
        state = [
            after.value(name) if index in needed else None
            for index, name in enumerate(update.root.operands)
        ]
    return None


def _condition_and_body(module: Module, loop: Instruction) -> tuple[Computation, Computation]:
    (condition,), (body,) = loop.computations("condition"), loop.computations("body")
    return module.computations[condition], module.computations[body]


def _state_of_the_counter(test: Computation, update: Computation) -> set[int] | None:
    """The elements of a loop's state that its condition depends on, over all rounds."""
    if update.root.opcode != "tuple":
        return None
    needed, found = set[int](), _state_read(test, test.root)
    while found - needed:
        needed |= found
        after = [update[update.root.operands[index]] for index in needed]
        found = set[int]().union(*(_state_read(update, each) for each in after))
    return needed


def _state_read(computation: Computation, of: Instruction) -> set[int]:
    """The elements of a loop's state that an instruction of its body or condition depends on."""
    found, seen, waiting = set[int](), set[str](), [of]
    while waiting:
        each = waiting.pop()
        if each.name in seen:
            continue
        seen.add(each.name)
        operands = computation.operands(each)
        if each.opcode == "get-tuple-element" and operands[0].opcode == "parameter":
            found.add(int(each.attribute("index") or 0))
        else:
            waiting += operands
    return found


def _constant_state(module: Module, around: "Integers", loop: Instruction) -> "list[Value] | None":
    """The integers that a loop hands from round to round as they are; None for all the others."""
    _, update = _condition_and_body(module, loop)
    state = around.value(loop.operands[0])
    if update.root.opcode != "tuple" or not isinstance(state, list):
        return None
    constant: list[Value] = []
    for index, (value, name) in enumerate(zip(state, update.root.operands, strict=True)):
        after = update[name]
        kept = after.opcode == "get-tuple-element" and after.attribute("index") == str(index)
        constant.append(value if kept else None)
    return constant


# An integer or a truth value, a list of these for a tuple, and None where it is not known.
Value = Any

ARITHMETIC: dict[str, Callable[..., Value]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "minimum": min,
    "maximum": max,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "negate": lambda a: -a,
    "select": lambda condition, a, b: a if condition else b,
}
COMPARISONS: dict[str, Callable[..., bool]] = {
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
    "EQ": lambda a, b: a == b,
    "NE": lambda a, b: a != b,
}
SAME = {"copy", "convert", "bitcast", "reshape", "opt-barrier", "copy-start", "copy-done"}


class Integers:
    """The integers of a computation: what its instructions give for these arguments.

    `arguments` holds a Value for each parameter, or is None where none of them is known.
    """

    def __init__(self, module: Module, computation: Computation, arguments: list[Value] | None):
        self.module = module
        self.computation = computation
        self.arguments = arguments
        self.known: dict[str, Value] = {}

    def value(self, name: str) -> Value:
        """What the instruction of this name gives."""
        if name not in self.known:
            each = self.computation.get(name)
            self.known[name] = None if each is None else self._of(each)
        return self.known[name]

    def _of(self, each: Instruction) -> Value:
        operands = each.operands
        if each.opcode == "tuple":
            return [self.value(name) for name in operands]
        if each.opcode == "get-tuple-element":
            whole, index = self.value(operands[0]), int(each.attribute("index") or 0)
            return whole[index] if isinstance(whole, list) else None
        if each.opcode == "parameter":
            return None if self.arguments is None else self.arguments[int(each.arguments)]
        if re.match(r"\(?(?:[su]\d+|pred)\[\]", each.shape) is None:
            return None
        if each.opcode == "constant":
            return _constant(each.arguments)
        if each.opcode in SAME:
            return self.value(operands[0])
        values = [self.value(name) for name in operands]
        if each.opcode in ("fusion", "call"):
            (name,) = each.computations("calls", "to_apply")
            inside = self.module.computations[name]
            return Integers(self.module, inside, values).value(inside.root.name)
        if None in values:
            return None
        if each.opcode == "compare":
            return COMPARISONS[each.attribute("direction") or "EQ"](*values)
        return ARITHMETIC[each.opcode](*values) if each.opcode in ARITHMETIC else None


def _constant(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else None
