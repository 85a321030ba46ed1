"""What every kind of guidance shares: weights, the branches of a model, and their combinations.

With exponents b_i, a product of powers of noised densities p_i,t has the score and the noise

    pi_t ~ prod_i p_i,t^b_i,    score = sum_i b_i score_i,    eps = sum_i b_i eps_i            (1)

pi_t is in general not the noised version of pi_0, so a sampler that follows (1) misses pi_0. The
Fokker-Planck equations of the p_i,t give what is missing. Along the reverse SDE, or the
probability flow, of the score (1), particles have the law pi_t if

    d log weight / d lambda = |eps|^2 - sum_i b_i |eps_i|^2 + sum_i b_i rate_i                 (2)

up to a constant, where rate_i is the rate of branch i if it is such a product itself. The same
holds for any share of the reverse SDE's noise. (2) is computed from d_i = eps_i - eps_0 and
b = sum_i b_i, in which nothing large cancels where b = 1:

    (b^2 - b) |eps_0|^2 + 2 (b - 1) eps_0 . m + |m|^2 - sum_i b_i |d_i|^2,   m = sum_i b_i d_i   (3)

Skreta et al. 2025, "Feynman-Kac Correctors in Diffusion", derive (2) for annealing, guidance and
products; lambda in place of time makes g^2 dt / 2 = sigma^2 dlambda.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.model import Model, as_pytree, require_model
from sde_diffusion.prediction import NO_CORRECTION, Correction, Prediction
from sde_diffusion.sdes import SDE, Array, expand
from sde_diffusion.sdes.base import is_known

Weight = Any


def checked_weight(of: str, weight: Weight, name: str = "weight") -> Weight:
    """A weight as a pytree: a float, an array [B], or a function of time.

    Raises TypeError for what is none of these, and ValueError, which names it, for one that is not
    finite or has more than one axis.
    """
    if callable(weight):
        return as_pytree(weight)
    if isinstance(weight, str | bool) or weight is None:
        raise TypeError(f"{of}: {name} must be a number, an array or a function, got {weight!r}")
    if jnp.ndim(weight) > 1:
        raise ValueError(f"{of}: {name} must be [] or [B], got shape {jnp.shape(weight)}")
    if is_known(weight) and not np.all(np.isfinite(np.asarray(weight, float))):
        raise ValueError(f"{of}: {name} must be finite, got {weight}")
    return number(weight) if isinstance(weight, int | float) else jnp.asarray(weight, float)


def number(value: Any) -> Any:
    """An integer as a float, so that every number of a guided model has one dtype."""
    return float(value) if isinstance(value, int) else value


def weight_at(of: str, weight: Weight, x: Array, t: Array) -> Array:
    """The weight at time t, [] or [B]; ValueError unless it fits the samples x."""
    value = jnp.asarray(weight(t) if callable(weight) else weight)
    if value.shape not in ((), x.shape[:1]):
        raise ValueError(
            f"{of}: weight has shape {value.shape}, but the model was called with {x.shape[0]} "
            "samples (inside another guidance, batched=False keeps them apart)"
        )
    return value


def under(model: Model, sde: SDE) -> Model:
    """The model inside a guided one, with the guided one's SDE."""
    return dataclasses.replace(model, sde=sde)


def same_sde(of: str, *models: Model) -> SDE:
    """The SDE that all models have; TypeError or ValueError where one is no Model or differs."""
    for model in models:
        require_model(model)
    first, *rest = (model.sde for model in models)
    for other in rest:
        leaves = jax.tree.leaves((first, other))
        known = is_known(*leaves)
        if type(other) is not type(first) or (known and not _equal(first, other)):
            raise ValueError(f"{of}: the models have different SDEs, {first} and {other}")
    return first


def _equal(a: SDE, b: SDE) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def null_like(of: str, null: Any, cond: Any) -> Any:
    """The null condition for each sample: leaves [...] of `null` as the [B, ...] of `cond`.

    Raises ValueError, which names what is wrong, where there is no condition or `null` has another
    structure or shape.
    """
    if cond is None:
        raise ValueError(f"{of}: the model was called without a condition: pass cond=...")
    ours, theirs = str(jax.tree.structure(null)), str(jax.tree.structure(cond))
    if ours != theirs:
        raise ValueError(f"{of}: null must have the structure of cond, {theirs}, got {ours}")

    def spread(path: Any, value: Any, like: Array) -> Array:
        if jnp.ndim(value) >= jnp.ndim(like) or jnp.shape(value) not in ((), like.shape[1:]):
            raise ValueError(
                f"{of}: null{jax.tree_util.keystr(path)} must be one value for all samples, a "
                f"number or of shape {like.shape[1:]}, got shape {jnp.shape(value)}"
            )
        return jnp.broadcast_to(jnp.asarray(value, like.dtype), like.shape)

    return jax.tree_util.tree_map_with_path(spread, null, cond)


def branches(
    model: Model, x: Array, t: Array, conds: Sequence[Any], batched: bool
) -> list[Prediction]:
    """The model's prediction under each condition, by one call of all or one call each.

    In the joint batch the branches of a sample are neighbours, so that no sample leaves its device
    if the batch is spread over many.
    """
    if not batched:
        return [model(x, t, cond) for cond in conds]
    num = len(conds)

    def join(*leaves: Array) -> Array:
        return jnp.stack(leaves, axis=1).reshape(-1, *leaves[0].shape[1:])

    joint = model(join(*[x] * num), jnp.repeat(t, num) if t.ndim else t, jax.tree.map(join, *conds))

    def part(leaf: Any, i: int) -> Any:
        return leaf.reshape(-1, num, *leaf.shape[1:])[:, i] if jnp.ndim(leaf) else leaf

    correction = joint.correction
    return [
        Prediction(
            joint.kind,
            part(joint.value, i),
            x,
            t,
            joint.sde,
            part(joint.evaluations, i),
            None if correction is None else Correction(*(part(leaf, i) for leaf in correction)),
        )
        for i in range(num)
    ]


def extrapolated(
    base: Prediction, others: Sequence[tuple[Array, Prediction]], fixed: bool = True
) -> Prediction:
    """base + sum_i w_i (other_i - base), of the kind of `base`, with weights [] or [B].

    The weights of all branches sum to one, so the result is the same in every kind of prediction.
    `fixed` tells that the weights do not change with time, without which (2) does not hold.
    """
    value = base.value
    for weight, other in others:
        value = value + expand(weight, value) * (other.view(base.kind) - base.value)
    rest = 1.0 - sum(weight for weight, _ in others)
    parts = [(rest, base), *others]
    correction = correction_of(parts, 1.0) if fixed else NO_CORRECTION
    return _of_parts(base, base.kind, value, parts, correction)


def multiplied(parts: Sequence[tuple[Array, Prediction]], fixed: bool = True) -> Prediction:
    """eps = sum_i b_i eps_i of (1), for exponents [] or [B] of any sum."""
    value = sum(expand(power, part.x) * part.eps for power, part in parts)
    total = sum(power for power, _ in parts)
    correction = correction_of(parts, total) if fixed else NO_CORRECTION
    return _of_parts(parts[0][1], "eps", value, parts, correction)


def _of_parts(
    like: Prediction, kind: str, value: Any, parts: Sequence[Any], correction: Correction
) -> Prediction:
    evaluations = sum(part.evaluations for _, part in parts)
    return Prediction(kind, value, like.x, like.t, like.sde, evaluations, correction)


def correction_of(parts: Sequence[tuple[Any, Prediction]], total: Array | float) -> Correction:
    """(3) and the sum of the exponents; `total` is the sum of the parts' own, b."""
    inner = [part.correction or Correction(0.0, 1.0) for _, part in parts]
    if any(each.rate is None for each in inner):
        return NO_CORRECTION
    first = parts[0][1].eps

    def dot(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))

    differences = [part.eps - first for _, part in parts]
    powers = [power for power, _ in parts]
    m: Any = sum(expand(b, first) * d for b, d in zip(powers, differences, strict=True))
    rate = (total**2 - total) * dot(first, first) + 2.0 * (total - 1.0) * dot(first, m) + dot(m, m)
    power: Any = 0.0
    for b, d, each in zip(powers, differences, inner, strict=True):
        rate = rate - b * dot(d, d) + b * each.rate
        power = power + b * each.power
    return Correction(rate, power)
