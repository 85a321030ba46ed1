"""Prior preservation: a second set of pictures, which the model knows already, beside the first.

    1/2 (mean over the pictures of the first set + weight * mean over those of the second),

each of them half of a batch on average. A model that is fine-tuned on a few pictures of one thing
then keeps what it knew of the others of its kind. Ruiz et al. 2023, "DreamBooth: fine tuning
text-to-image diffusion models for subject-driven generation", sec. 3.3.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sde_diffusion import data
from sde_diffusion.config.schema import fields
from sde_diffusion.objectives import Objective
from sde_diffusion.objectives.objective import Metrics
from sde_diffusion.sdes import Array

WEIGHT = "weight"  # the entry of a record by which its loss is multiplied


def entries(config: ConfigDict) -> tuple[str, ...]:
    """The entries of a record that prior preservation needs."""
    return () if config.data.prior.name == "none" else (WEIGHT,)


def problems(config: ConfigDict) -> Iterator[str]:
    """A line for each field of config.data.prior that has no effect or no meaning."""
    weight = config.data.prior_weight
    if config.data.prior.name == "none":
        if weight != 1.0:
            yield (
                f"config.data.prior_weight is {weight!r}, and config.data.prior names no pictures"
            )
        return
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < np.inf:
        yield f"config.data.prior_weight must be a positive number, got {weight!r}"
    if config.loss.name != "denoising" or config.flow_map.name != "none":
        yield "config.data.prior is for config.loss.name 'denoising', without config.flow_map"


def joined(config: ConfigDict, first: data.Source) -> data.Source:
    """The pictures of both sets, as often each; the first set alone where there is no second.

    Raises ValueError where the records of the sets differ in what they have.
    """
    group = config.data.prior
    if group.name == "none":
        return first
    second = data.load(group.name, **fields(group))
    ours, theirs = dict(first.features), dict(second.features)
    if ours.get("label") != theirs.get("label"):  # folders of classes of their own
        ours.pop("label", None), theirs.pop("label", None)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"config.data.prior: {name!r} of {second.name} is {theirs.get(name, 'absent')}, "
                f"and of {first.name} {ours.get(name, 'absent')}"
            )
    sets = (data.select(first, ours), data.select(second, ours))
    return data.Alternating(sets, (1.0, config.data.prior_weight), WEIGHT)


def weighted(objective: Objective) -> Objective:
    """The objective with the loss of each record times its weight."""

    def of_records(
        params: Any, key: Array, batch: Any, *, frozen: Any, ema: tuple[Any, ...], step: Array
    ) -> tuple[Array, Metrics]:
        loss, metrics = objective(params, key, batch, frozen=frozen, ema=ema, step=step)
        return loss * batch[WEIGHT], metrics

    return of_records
