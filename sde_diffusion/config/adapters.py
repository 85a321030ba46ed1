"""Low-rank adapters in a config: training the adapters of a stored network, `config.lora`.

The network that `config.init_from` names is the base. It is frozen, and the parameters of the run
are the adapters alone: the optimizer, the averages and the checkpoints hold nothing else.

`config.init_from.groups` names parts of the config that are those of the base's run, such as its
network, so that a config of a fine-tuning run says only what is different.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict

from sde_diffusion import lora
from sde_diffusion.config import schema
from sde_diffusion.objectives import Objective
from sde_diffusion.objectives.objective import Metrics
from sde_diffusion.sdes import Array
from sde_diffusion.selection import require_known
from sde_diffusion.training import Recipe
from sde_diffusion.training.recipe import InitFn

BASE = "base"  # its name among the frozen trees


def has_adapters(config: ConfigDict) -> bool:
    """Whether the parameters of the run are adapters of another network's."""
    return config.lora.rank is not None


def problems(config: ConfigDict) -> Iterator[str]:
    """A line for each field of config.lora that has no effect, or no base."""
    if has_adapters(config):
        if not config.init_from.path:
            yield "config.lora.rank needs a base: set config.init_from.path to a run or a file"
        yield from problems_of_fields(config)
        return
    for field, value in schema.default().lora.items():
        if config.lora[field] != value:
            yield (
                f"config.lora.{field} is {config.lora[field]!r}, and without config.lora.rank there"
                " are no adapters"
            )


def problems_of_fields(config: ConfigDict) -> Iterator[str]:
    """A line for each field of config.lora that has no meaning."""
    rank = config.lora.rank
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        yield f"the rank of an adapter must be a whole number from 1, got {rank!r} (config.lora)"
    for field in ("alpha", "weight"):
        value = config.lora[field]
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not (good or (field == "alpha" and value is None)):
            yield f"config.lora.{field} must be a number, got {value!r}"


def adapted(config: ConfigDict, recipe: Recipe, base: Any = None) -> Recipe:
    """The recipe that trains adapters of `base` by the objective of the given recipe.

    `frozen["base"]` is the base, by default its shapes alone, for planning.
    """
    if base is None:
        base = jax.eval_shape(recipe.init_params, jax.random.key(0))
    return dataclasses.replace(
        recipe,
        init_params=init(config, base),
        objective=_of_adapters(recipe.objective, share(config)),
        frozen={**(recipe.frozen or {}), BASE: base},
    )


def init(config: ConfigDict, base: Any) -> InitFn:
    """key -> new adapters of the base, or of its shapes."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), base)
    return partial(lora.init, params=shapes, rank=config.lora.rank, names=config.lora.names)


def merged(config: ConfigDict, base: Any, adapters: Any) -> Any:
    """The parameters of the adapted network, with config.lora.weight times the trained change."""
    return jax.jit(lora.merge)(base, lora.scale(adapters, config.lora.weight * share(config)))


def inherited(config: ConfigDict, theirs: ConfigDict, overrides: Mapping[str, str]) -> ConfigDict:
    """The config with the groups config.init_from.groups of the base's, then overridden again.

    Raises ValueError for a group that there is not.
    """
    ours = config.copy_and_resolve_references().unlock()
    for group in config.init_from.groups:
        *outer, name = group.split(".")
        at, their = ours, theirs
        for step in outer:
            require_known("group of config.init_from.groups", group, _groups(config))
            at, their = at[step], their[step]
        require_known("group of config.init_from.groups", group, _groups(config))
        at[name] = their[name]
    return schema.override(ours.lock(), overrides)


def _groups(config: ConfigDict) -> list[str]:
    fields = schema.flatten(config)
    parts = {name.rpartition(".")[0] for name in fields} | set(fields)
    return sorted({*parts, *(name.partition(".")[0] for name in fields)} - {""})


def share(config: ConfigDict) -> float:
    """alpha / r, by which the product of the two matrices is multiplied."""
    alpha = config.lora.alpha
    return 1.0 if alpha is None else alpha / config.lora.rank


def _of_adapters(objective: Objective, factor: float) -> Objective:
    def of_adapters(
        params: Any, key: Array, batch: Any, *, frozen: Any, ema: tuple[Any, ...], step: Array
    ) -> tuple[Array, Metrics]:
        others = {name: tree for name, tree in frozen.items() if name != BASE}

        def network(adapters: Any) -> Any:
            return lora.merge(frozen[BASE], lora.scale(adapters, factor))

        averages = tuple(map(network, ema))
        return objective(
            network(params), key, batch, frozen=others or None, ema=averages, step=step
        )

    return of_adapters
