"""Classes to ask a model for, in the proportions of the data."""

from collections.abc import Sequence

import numpy as np


def in_proportion(counts: Sequence[int], num: int) -> np.ndarray:
    """`num` classes in the proportions of the counts, also over every beginning, int [num].

    Sample i takes the class c that is furthest behind its share, the largest of
    (i + 1) counts[c] / sum(counts) - (how many earlier samples took c), the first of equals.
    Nothing is random, so the shares do not fluctuate, and the class of sample i does not depend on
    `num`. With equal counts the classes take turns. A class whose count is 0 is not drawn.

    Raises:
        ValueError: no count is above 0.
    """
    weights = np.asarray(counts, np.float64)
    if not weights.sum() > 0:
        raise ValueError(f"no class has any data: counts {list(counts)}")
    classes = np.flatnonzero(weights)
    shares = weights[classes] / weights.sum()
    behind, labels = np.zeros(len(classes)), np.empty(num, np.int64)
    for i in range(num):
        behind += shares
        # Rounded, so that equal shares are equal after any number of sums.
        taken = np.argmax(np.round(behind, 9))
        behind[taken] -= 1.0
        labels[i] = classes[taken]
    return labels
