"""Measurement: what was measured of each sample, passed to a sampler as its condition."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.inverse.operator import Operator, Own, require_operator
from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import Array, expand


@pytree
class Measurement:
    """y = A(x_0) + std z of each sample, z ~ N(0, I): the `cond` of the methods of this package.

    y is [B, *out] and std [B]; 0 is a measurement without noise. An operator that all samples share
    is an argument of the method. Where every sample has its own, such as its own mask, `operator`
    holds it here, with leaves [B, ...]. `cond` is what the model itself is called with, such as
    labels. So all arrays are [B, ...]: sample i depends on its own part alone.
    """

    y: Array
    std: Array
    operator: Operator | None = None
    cond: Any = None

    @classmethod
    def of(
        cls, y: Array, std: Array | float, operator: Operator | None = None, cond: Any = None
    ) -> Measurement:
        """From y [B, *out] and a std [] or [B]; ValueError for another std, or a negative one."""
        y = jnp.asarray(y)
        std = jnp.asarray(std, jnp.promote_types(y.dtype, jnp.float32))
        if y.ndim == 0 or std.shape not in ((), y.shape[:1]):
            raise ValueError(
                f"y must be [B, *out] and std [] or [B], got shapes {y.shape} and {std.shape}"
            )
        if not isinstance(std, jax.core.Tracer) and not bool(jnp.all(std >= 0.0)):
            raise ValueError(f"std must be at least 0, got {std}")
        return cls(y, jnp.broadcast_to(std, y.shape[:1]), operator, cond)


def measure(
    key: Array, operator: Operator, x: Array, std: Array | float, cond: Any = None
) -> Measurement:
    """A simulated measurement of samples x [B, *event]: noise of sample i is drawn by (key, i)."""
    require_operator(operator)
    clean = operator(x)
    z = noise.normal(noise.sample_keys(key, len(x)), clean)
    std = jnp.broadcast_to(jnp.asarray(std, clean.dtype), clean.shape[:1])
    return Measurement.of(operator.seen(clean + expand(std, clean) * z), std, None, cond)


def measured(
    operator: Operator | None, cond: Any, x: Array, linear_for: str | None = None
) -> tuple[Operator, Measurement]:
    """(the operator for x [B, *event], the measurement with y [B, *out]), checked.

    `linear_for` is the method that needs a linear operator. Raises TypeError where the condition is
    no Measurement, ValueError where there is no operator, or two, or where y does not have the
    shape that the operator gives. Nothing is computed before.
    """
    if not isinstance(cond, Measurement):
        raise TypeError(
            f"cond must be a Measurement, as Measurement.of(y, std) makes it, got "
            f"{type(cond).__name__}"
        )
    if (operator is None) == (cond.operator is None):
        raise ValueError(
            "the operator must be given either to the method or in the Measurement, got "
            + ("none" if operator is None else "both")
        )
    A: Any = operator if cond.operator is None else Own(cond.operator)
    if linear_for is not None:
        A.require_linear(linear_for)
    gives = A.shape(x)
    if gives != cond.y.shape:
        raise ValueError(
            f"y has shape {cond.y.shape}, but {A.name} gives {gives} for samples of shape {x.shape}"
        )
    return A, Measurement(A.seen(cond.y), cond.std, None, cond.cond)
