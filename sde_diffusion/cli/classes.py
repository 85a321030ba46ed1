"""The classes that samples are of: their names and numbers, and which are drawn."""

import numpy as np

from sde_diffusion import data


def labels(features: data.Features, num: int, wanted: int | None = None) -> np.ndarray:
    """num classes: one of them, or all that have data in turn, a column of a grid for each."""
    if wanted is not None:
        return np.full(num, wanted)
    there = classes_with_data(features)
    return there[np.arange(num) % len(there)]


def usual_labels(features: data.Features, num: int) -> np.ndarray:
    """num classes in the proportions of the data; in turn where those are not known."""
    return data.in_proportion(features["label"].counts or (1,) * features.num_classes, num)


def classes_with_data(features: data.Features) -> np.ndarray:
    """The classes of which there are data; all of them where the counts are not known."""
    return np.flatnonzero(features["label"].counts or (1,) * features.num_classes)


def class_table(features: data.Features, most: int = 20) -> str:
    """Which number stands for which class, with its records: "0 cat (380), 1 dog (7)"."""
    label = features["label"]
    counts = label.counts or ("?",) * label.num_classes
    named = zip(label.classes or (), counts, strict=True)
    told = [f"{k} {name} ({count})" for k, (name, count) in enumerate(named)]
    return ", ".join([*told[:most], *(["..."] if len(told) > most else [])])


def class_number(features: data.Features, text: str) -> int:
    """The class that --class says, by its name or its number; ValueError unless it has data."""
    names = features["label"].classes or ()
    there = classes_with_data(features)
    if text in names:
        number = names.index(text)
    elif text.isdecimal() and int(text) < len(names):
        number = int(text)
    else:
        told = ", ".join(f"{k} {names[k]}" if names[k] != str(k) else str(k) for k in there[:20])
        raise ValueError(f"--class takes one of {told}{' ...' * (len(there) > 20)}; got {text!r}")
    if number not in there:
        raise ValueError(f"--class {text}: the data have no record of this class")
    return number
