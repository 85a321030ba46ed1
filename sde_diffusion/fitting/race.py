"""Choosing the starting points of a long descent by short descents from many."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from sde_diffusion.sdes import Array

# Steps between two halvings, and the number of starts that remain at the end.
LAP = 3
FINALISTS = 2

S = TypeVar("S")


def race(
    starts: Sequence[Array],
    descent: Callable[[int, Array], Iterator[Array]],
    reached: Callable[[S, Array], tuple[S, float]],
    standing: S,
    going: Callable[[], bool],
) -> tuple[S, list[Array]]:
    """(standing, the last theta of the FINALISTS, best first).

    descent(i, start) yields the steps from start i. All starts take LAP steps, the better half
    takes LAP more, and so on. Once going() is false, the race ends with the order at that moment.
    reached(standing, theta) returns the standing after theta and the error of theta. The race is
    needed because the error has many local minima, and the start of the least error does not lead
    to the lowest one. Successive halving: Jamieson & Talwalkar 2016.
    """
    runs = [(math.inf, theta, descent(i, theta)) for i, theta in enumerate(starts)]
    while len(runs) > FINALISTS and going():
        lap = []
        for _, theta, run in runs:
            for better in itertools.islice(run, LAP):
                theta = better
                if not going():
                    break
            standing, error = reached(standing, theta)
            lap.append((error, theta, run))
            if not going():
                break
        runs = sorted(lap, key=lambda run: run[0])[: max(FINALISTS, len(lap) // 2)]
    return standing, [theta for _, theta, _ in runs[:FINALISTS]]
