"""Which of many starts a descent should begin at: those that are ahead after a few of its steps."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from sde_diffusion.sdes import Array

# Steps between two halvings, and how many go on to the end.
LAP = 3
FINALISTS = 2


def race(
    starts: Sequence[Array],
    descent: Callable[[int, Array], Iterator[Array]],
    error: Callable[[Array], float],
    going: Callable[[], bool],
) -> list[Array]:
    """The FINALISTS of the starts, as far as they came, the best first.

    descent(i, start) is what follows start i. All take LAP steps, the better half LAP more, and so
    on; the race is called off, as it stands, once it is not `going`. The error has many local
    minima, and the start of the least error does not lead to the least of them. Successive
    halving: Jamieson & Talwalkar 2016.
    """
    runs = [(math.inf, theta, descent(i, theta)) for i, theta in enumerate(starts)]
    while len(runs) > FINALISTS and going():
        lap = []
        for _, theta, run in runs:
            for better in itertools.islice(run, LAP):
                theta = better
                if not going():
                    break
            lap.append((error(theta), theta, run))
            if not going():
                break
        runs = sorted(lap, key=lambda run: run[0])[: max(FINALISTS, len(lap) // 2)]
    return [theta for _, theta, _ in runs[:FINALISTS]]
