"""From a program's costs to time, by what the chip can do at its best."""

from typing import NamedTuple

from sde_diffusion.planning.chips import Chip
from sde_diffusion.planning.read import Program


class Time(NamedTuple):
    """Seconds of one run; None where the chip's or the compiler's figure is not known.

    compute, memory, network: what the operations, the bytes moved and the bytes sent take at the
        chip's peak rates.
    floor: the largest of them, below which no run can be (the roofline of Williams et al. 2009).
    estimate: the compiler's cycles, and the messages as if nothing were done meanwhile; never below
        the floor.
    """

    compute: float | None
    memory: float | None
    network: float | None
    floor: float | None
    estimate: float | None


def estimate(program: Program, chip: Chip) -> Time:
    """The roofline floor and the estimated time of a program on a chip."""
    compute = _over(program.flops, chip.flops)
    memory = _over(program.bytes_moved, chip.bandwidth)
    network = _over(sum(each.sent for each in program.collectives), chip.links)
    known = [seconds for seconds in (compute, memory, network) if seconds is not None]
    floor = max(known) if known else None
    cycles = None if program.cycles is None else _over(program.cycles, chip.clock)
    if cycles is None or floor is None:
        return Time(compute, memory, network, floor, None)
    return Time(compute, memory, network, floor, max(floor, cycles + (network or 0.0)))


def _over(amount: float, rate: float | None) -> float | None:
    return None if rate is None else amount / rate
