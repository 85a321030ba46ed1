"""Retrieval: whether pictures are found by their captions, and what a share of so many says."""

import numpy as np
from scipy import stats


def is_found(
    pictures: np.ndarray,
    captions: np.ndarray,
    own: np.ndarray,
    *,
    among: int,
    seed: int,
    others: np.ndarray | None = None,
) -> np.ndarray:
    """bool [N]: whether picture i fits its own caption better than among - 1 other captions.

        p_i . c_own(i)  >  max over the others j of  p_i . c_j

    The others are drawn at random from `captions`, and where these are too few, all of them and
    some of `others`. A tie is not found.

    Args:
        pictures: vectors [N, D].
        captions: vectors [C, D] of different captions.
        own: int [N], which of these is that of a picture.
        among: among how many captions a picture's own is sought.
        seed: of the draws.
        others: vectors [M, D] of further captions.

    Raises:
        ValueError: `among` is below 2, or above C + M.
    """
    more = np.empty((0, captions.shape[1])) if others is None else others
    if not 2 <= among <= len(captions) + len(more):
        raise ValueError(
            f"among must be from 2 to the {len(captions) + len(more)} captions, got {among}"
        )
    rng, found = np.random.default_rng(seed), np.empty(len(pictures), bool)
    for i, vector in enumerate(pictures):
        rest = rng.permutation(np.delete(np.arange(len(captions)), own[i]))[: among - 1]
        extra = rng.permutation(len(more))[: among - 1 - len(rest)]
        wrong = np.concatenate([captions[rest], more[extra]])
        found[i] = vector @ captions[own[i]] > (wrong @ vector).max()
    return found


def share(true: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """(the share of `true`, bool [N], and both ends of its interval).

    With p the share and z the normal quantile, the ends are

        [p + z^2 / 2N -+ z sqrt(p (1 - p) / N + z^2 / 4N^2)] / (1 + z^2 / N)

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    found = stats.binomtest(int(np.sum(true)), len(true))
    interval = found.proportion_ci(confidence, method="wilson")
    return float(found.statistic), float(interval.low), float(interval.high)
