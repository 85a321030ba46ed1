"""Which named drawings are held out of training: combinations of known parts, and whole drawings.

A *combination* is a drawing whose name is made of parts that other drawings have too:

    "man judge medium-dark skin tone"     the drawing "man judge", the tones ("medium-dark",)
    "handshake light skin tone dark ..."  the drawing "handshake", the tones ("light", "dark")
    "green heart"                         the shape "heart", the colour "green"

A combination is held out only while each of its parts is still in some other drawing of the
training set. The drawings of one base ("man judge" and its five tones) are held out *whole*, all of
them together, so that nothing of them is in training.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

TONE = re.compile(r" (light|medium-light|medium|medium-dark|dark) skin tone")
COLOURED = re.compile(
    r"(red|orange|yellow|green|light blue|blue|purple|brown|black|white|grey|pink) "
    r"(heart|circle|square)"
)
PARTS = ("train", "combinations", "drawings", "held_out", "all")

Part = tuple[str, ...]


def parts_of(name: str) -> tuple[Part, ...]:
    """The parts of a combination; only ("drawing", name) for a name that is none."""
    tones = TONE.findall(name)
    if tones:
        return ("drawing", TONE.sub("", name)), ("tones", *tones)
    coloured = COLOURED.fullmatch(name)
    if coloured:
        return ("shape", coloured[2]), ("colour", coloured[1])
    return (("drawing", name),)


def rows_of(
    part: str, names: Sequence[str], seed: int, combinations: float, drawings: float
) -> np.ndarray:
    """The numbers of the names in a part of PARTS, in order: int [n].

    Args:
        part: "train", "combinations", "drawings" (held out whole), "held_out" (both), or "all".
        names: of all drawings, each once.
        seed: chooses what is held out.
        combinations: the share of the combinations that is held out, as far as their parts allow.
        drawings: the share of the bases that is held out whole, coloured shapes not among them.

    Raises:
        ValueError: a share is not in [0, 1).
    """
    for field, share in {"combinations": combinations, "drawings": drawings}.items():
        if not 0 <= share < 1:
            raise ValueError(f"{field} must be in [0, 1), got {share}")
    rng = np.random.default_rng(seed)
    parts = [parts_of(name) for name in names]
    whole = _whole(parts, rng, drawings)
    combined = _combined(parts, ~whole, rng, combinations)
    chosen = {
        "train": ~whole & ~combined,
        "combinations": combined,
        "drawings": whole,
        "held_out": whole | combined,
        "all": np.ones(len(names), bool),
    }
    return np.flatnonzero(chosen[part])


def _whole(parts: list[tuple[Part, ...]], rng: np.random.Generator, share: float) -> np.ndarray:
    """bool [N]: the drawings of the bases that are held out."""
    bases = sorted({each[0] for each in parts if each[0][0] == "drawing"})
    order = rng.permutation(len(bases))[: round(share * len(bases))]
    chosen = {bases[k] for k in order}
    return np.array([each[0] in chosen for each in parts])


def _combined(
    parts: list[tuple[Part, ...]], there: np.ndarray, rng: np.random.Generator, share: float
) -> np.ndarray:
    """bool [N]: combinations of the drawings `there`, each of whose parts stays in another one.

    The share is that of the tones and of the colours, rounded up, each on its own.
    """
    left = Counter(part for each, kept in zip(parts, there, strict=True) if kept for part in each)
    out = np.zeros(len(parts), bool)
    for kind in ("tones", "colour"):
        rows = [i for i in np.flatnonzero(there) if len(parts[i]) == 2 and parts[i][1][0] == kind]
        most = int(np.ceil(share * len(rows)))
        for i in np.array(rows, int)[rng.permutation(len(rows))]:
            if out[rows].sum() == most:
                break
            if all(left[part] > 1 for part in parts[i]):
                left.subtract(parts[i])
                out[i] = True
    return out
