"""The operations of an instruction, and the bytes that it reads and writes.

The compiler's own account of these is of a whole program in which the body of a loop counts once.
What the further rounds add is counted here by the same rules, those of XLA's `HloCostAnalysis`: a
multiplication and an addition are two operations, and functions such as exp are none.
"""

import functools
import math
import re
from typing import NamedTuple

import numpy as np

from sde_diffusion.planning import hlo
from sde_diffusion.planning.hlo import Array, Computation, Instruction, Module

# One operation for each element of the result.
ELEMENTWISE = {
    *("add", "subtract", "multiply", "divide", "remainder", "maximum", "minimum", "clamp"),
    *("abs", "negate", "sign", "floor", "ceil", "round-nearest-afz", "round-nearest-even"),
    *("and", "or", "xor", "not", "shift-left", "shift-right-logical", "shift-right-arithmetic"),
    *("compare", "select", "convert", "is-finite", "popcnt", "count-leading-zeros"),
}
# What moves nothing: names for what is there already, and the ends of what was begun.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"),
    *("while", "conditional", "call", "partition-id", "replica-id", "async-start", "async-update"),
}
FREE_CUSTOM_CALLS = {
    *("AllocateBuffer", "AsyncCollectiveStart", "AsyncCollectiveDone", "ConcatBitcast"),
    *("X64Combine", "X64SplitHigh", "X64SplitLow", "Sharding", "SPMDFullToShardShape"),
}
SLICES = {"slice", "dynamic-slice", "gather"}
# What hands its operand on inside a fusion.
VIEWS = {"bitcast", "reshape", "copy", "convert"}


def is_free(instruction: Instruction) -> bool:
    """Whether the instruction computes nothing and moves nothing."""
    if instruction.opcode == "custom-call":
        return instruction.attribute("custom_call_target") in FREE_CUSTOM_CALLS
    return instruction.opcode in FREE or instruction.opcode.endswith("-done")


def flops(instruction: Instruction, computation: Computation) -> float:
    """The operations of an instruction other than a fusion, whose own are those inside it."""
    if instruction.opcode in ELEMENTWISE:
        return float(sum(array.elements for array in instruction.arrays))
    operands = computation.operands(instruction)
    if instruction.opcode == "dot":
        sizes = hlo.sizes(operands[0].shape)
        contracted = instruction.dimensions("lhs_contracting_dims")
        width = math.prod(sizes[axis] for axis in contracted)
        return 2.0 * width * instruction.arrays[0].elements
    if instruction.opcode == "convolution":
        return _convolution(instruction, *operands)
    if instruction.opcode == "reduce":
        inputs = operands[: len(operands) // 2]  # the others are where the sums begin
        given = sum(array.elements for each in inputs for array in each.arrays)
        return float(given - sum(array.elements for array in instruction.arrays))
    if instruction.opcode == "reduce-window":
        found = re.search(r"window=\{size=([\dx]+)", instruction.line)
        window = math.prod(int(size) for size in found[1].split("x")) if found else 1
        return float((window - 1) * sum(array.elements for array in instruction.arrays))
    return 0.0


def _convolution(instruction: Instruction, given: Instruction, kernel: Instruction) -> float:
    """Two for each product of an element of the input and one of the kernel; padding is none."""
    labels = re.split(r"_|->", instruction.attribute("dim_labels") or "")
    inputs, kernels, outputs = (
        dict(zip(names, hlo.sizes(each.shape), strict=True))
        for names, each in zip(labels, (given, kernel, instruction), strict=True)
    )
    found = re.search(r"window=\{([^}]*)\}", instruction.line)
    window = dict(re.findall(r"(\w+)=(\S+)", found[1])) if found else {}
    axes = sorted(label for label in outputs if label.isdigit())

    def along(name: str, default: str) -> list[int]:
        values = window[name].split("x") if name in window else [default] * len(axes)
        return [int(value.partition("_")[0]) for value in values]

    pads, strides = along("pad", "0_0"), along("stride", "1")
    dilations, kernel_dilations = along("lhs_dilate", "1"), along("rhs_dilate", "1")
    products = math.prod(
        _products(inputs[label], kernels[label], outputs[label], *rest)
        for label, *rest in zip(axes, pads, strides, dilations, kernel_dilations, strict=True)
    )
    return 2.0 * products * outputs["b"] * outputs["f"] * kernels["i"]


@functools.cache
def _products(
    inputs: int,
    kernel: int,
    outputs: int,
    pad: int,
    stride: int,
    dilation: int,
    kernel_dilation: int,
) -> int:
    """Pairs of an output and an element of the kernel along an axis that meet in an input."""
    starts = np.arange(outputs) * stride - pad
    total = 0
    for place in range(kernel):
        at = starts + place * kernel_dilation
        met = (at >= 0) & (at < inputs * dilation) & (at % dilation == 0)
        total += int(met.sum())
    return total


class Traffic(NamedTuple):
    """What an instruction reads and writes: arrays, each with the bytes of it that are touched."""

    read: list[tuple[Array, float]]
    written: list[tuple[Array, float]]

    @property
    def bytes(self) -> float:
        return sum(size for _, size in self.read + self.written)

    @property
    def bytes_in_main_memory(self) -> float:
        return sum(size for array, size in self.read + self.written if array.in_main_memory)


def traffic(module: Module, computation: Computation, instruction: Instruction) -> Traffic:
    """The bytes of an executed instruction's operands and results that it touches.

    A slice reads what it gives and an update in place writes the new part alone, in fusions too:
    so a loop over the layers of a stack reads each layer once.
    """
    operands, results = computation.operands(instruction), instruction.arrays
    opcode = instruction.opcode
    if is_free(instruction):
        return Traffic([], [])
    if opcode in ("copy-start", "slice-start"):  # (result, operand, counter), or ((operands), ...)
        source = operands[0].arrays[0]
        result = results[0 if opcode == "copy-start" else len(operands)]
        return Traffic([(source, result.bytes)], [(result, result.bytes)])
    if opcode in SLICES and operands:
        read = [(operands[0].arrays[0], results[0].bytes)]
        return Traffic(read, [(results[0], results[0].bytes)])
    if opcode == "dynamic-update-slice":
        update = operands[1].arrays[0]
        return Traffic([(update, update.bytes)], [(results[0], update.bytes)])
    if opcode == "fusion":
        return _of_fusion(module, operands, instruction)
    read = [(array, array.bytes) for each in operands for array in each.arrays]
    written = [(array, array.bytes) for array in results]
    if opcode.endswith("-start") or opcode == "send":  # the shape holds the operands as well
        written = _without(written, read)
    return Traffic(read, written)


def _without(
    written: list[tuple[Array, float]], read: list[tuple[Array, float]]
) -> list[tuple[Array, float]]:
    rest = list(written)
    for each in read:
        if each in rest:
            rest.remove(each)
    return rest


def _of_fusion(module: Module, operands: list[Instruction], fusion: Instruction) -> Traffic:
    (name,) = fusion.computations("calls")
    inside = module.computations[name]
    parameters = {
        int(each.arguments): each for each in inside.values() if each.opcode == "parameter"
    }
    read = []
    for number, operand in enumerate(operands):
        for array in operand.arrays:
            part = _part_read(module, inside, parameters[number])
            read.append((array, array.bytes if part is None else min(part, array.bytes)))
    roots = inside.operands(inside.root) if inside.root.opcode == "tuple" else [inside.root]
    written = []
    for place, array in enumerate(fusion.arrays):
        update = _update(inside, roots[place]) if len(roots) == len(fusion.arrays) else None
        written.append((array, array.bytes if update is None else min(update, array.bytes)))
    return Traffic(read, written)


def _part_read(module: Module, inside: Computation, parameter: Instruction) -> float | None:
    """The bytes that a fusion reads of an array of which it takes slices; None for all of it."""
    total = 0.0
    for user in inside.users[parameter.name]:
        first = user.operands[0] == parameter.name and parameter.name not in user.operands[1:]
        if user.opcode in SLICES and first:
            total += user.arrays[0].bytes
        elif user.opcode == "dynamic-update-slice" and first:
            continue  # what is there stays there
        elif user.opcode in VIEWS:
            part = _part_read(module, inside, user)
            if part is None:
                return None
            total += part
        elif user.opcode == "fusion":
            (name,) = user.computations("calls")
            other = module.computations[name]
            numbers = [str(n) for n, op in enumerate(user.operands) if op == parameter.name]
            for each in other.values():
                if each.opcode == "parameter" and each.arguments in numbers:
                    part = _part_read(module, other, each)
                    if part is None:
                        return None
                    total += part
        else:
            return None
    return total


def _update(inside: Computation, result: Instruction) -> float | None:
    """The bytes that an update in place writes; None where the result is something else."""
    while result.opcode in VIEWS and result.operands[0] in inside:
        result = inside[result.operands[0]]
    if result.opcode != "dynamic-update-slice":
        return None
    return inside.operands(result)[1].arrays[0].bytes
