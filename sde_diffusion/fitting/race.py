"""Which of many starts a descent should begin at: those that are ahead after a few of its steps."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from sde_diffusion.sdes import Array

# Steps between two halvings, and how many go on to the end.
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
    """(standing, the FINALISTS of the starts, as far as they came, the best first).

    descent(i, start) is what follows start i. All take LAP steps, the better half LAP more, and so
    on; the race is called off, as it stands, once it is not `going`. reached(standing, theta) gives
    the error at theta, and what is known after it. The error has many local minima, and the start
    of the least error does not lead to the least of them. Successive halving: Jamieson & Talwalkar
    2016.
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
