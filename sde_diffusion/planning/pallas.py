"""The matrix products inside a Pallas kernel for TPUs, whose author did not tell its operations.

A compiled program holds such a kernel as MLIR bytecode, in the dialect of its compiler (Mosaic).
"""

import math
import re
from collections.abc import Callable
from typing import Any


def matrix_products(body: bytes) -> float | None:
    """The operations of the matrix products of a Pallas kernel for TPUs, in all steps of its grid.

    `body` is the kernel as MLIR bytecode. Every branch counts as taken. None where the kernel
    cannot be read, or where a loop in it has no constant number of rounds.
    """
    try:
        from jaxlib.mlir import ir
        from jaxlib.mosaic.python import tpu  # the dialect has no other public name
    except ImportError:
        return None
    with ir.Context() as context:
        tpu.register_dialect(context)
        context.allow_unregistered_dialects = True
        try:
            kernel = ir.Module.parse(body)
        except ir.MLIRError:
            return None
        return _products(kernel.operation)


def _products(operation: Any) -> float | None:
    """Those of an operation and of all that is inside it."""
    name = operation.name.removeprefix("stable_mosaic.")
    if name == "tpu.matmul":
        return _matrix_product(operation)
    inside = [
        _products(each.operation)
        for region in operation.regions
        for block in region.blocks
        for each in block.operations
    ]
    if not any(each != 0.0 for each in inside):
        return 0.0
    times = _rounds(operation, name)
    if times is None or None in inside:
        return None
    return times * sum(each for each in inside if each is not None)


def _matrix_product(operation: Any) -> float:
    contracted = re.search(r"<\[([\d, ]*)\]", str(operation.attributes["dimension_numbers"]))
    assert contracted is not None  # the first of its lists: the left side's dimensions
    left, result = operation.operands[0].type, operation.results[0].type
    width = math.prod(left.shape[int(axis)] for axis in contracted[1].split(","))
    return 2.0 * width * math.prod(result.shape)


def _rounds(operation: Any, name: str) -> int | None:
    """How often what is inside an operation runs each time that the operation does."""
    if name == "func.func":
        if "iteration_bounds" not in operation.attributes:
            return 1
        bounds = re.findall(r"-?\d+", str(operation.attributes["iteration_bounds"]).split(":")[1])
        sizes = [int(size) for size in bounds]
        return math.prod(sizes) if all(size > 0 for size in sizes) else None
    if name == "scf.for":
        first, last, step = (_integer(operand) for operand in list(operation.operands)[:3])
        if first is None or last is None or step is None:
            return None
        return max(0, math.ceil((last - first) / step))
    return None if name == "scf.while" else 1


ARITHMETIC: dict[str, Callable[..., int]] = {
    "arith.addi": lambda a, b: a + b,
    "arith.subi": lambda a, b: a - b,
    "arith.muli": lambda a, b: a * b,
    "arith.index_cast": lambda a: a,
    "arith.extsi": lambda a: a,
}


def _integer(value: Any) -> int | None:
    """The value of an integer that follows from constants; None of another."""
    if not hasattr(value.owner, "opview"):  # the argument of a block
        return None
    operation = value.owner.operation if hasattr(value.owner, "operation") else value.owner
    name = operation.name.removeprefix("stable_mosaic.")
    if name == "arith.constant":
        found = re.match(r"-?\d+", str(operation.attributes["value"]))
        return int(found[0]) if found else None
    operands = [_integer(each) for each in operation.operands]
    if name not in ARITHMETIC or None in operands:
        return None
    return ARITHMETIC[name](*operands)
