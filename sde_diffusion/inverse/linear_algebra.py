"""Conjugate gradients for each sample by itself, and what operators are inverted with."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sde_diffusion.inverse.operator import Operator
from sde_diffusion.sdes import Array, expand


def dot(a: Array, b: Array) -> Array:
    """The inner product of each sample, [B]."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))


def conjugate_gradients(apply: Callable[[Array], Array], b: Array, iterations: int) -> Array:
    """v with apply(v) = b, [B, ...], after that many steps from v = 0.

    `apply` is symmetric and positive semi-definite for each sample. One step calls it once. After
    as many steps as it has distinct eigenvalues the result is exact; a sample that is solved stays
    as it is. Source: Hestenes & Stiefel 1952.
    """
    # Below this share of b, a residual is rounding, and its direction is noise.
    solved = (4.0 * jnp.finfo(b.dtype).eps) ** 2 * dot(b, b)

    def step(_: Array, carry: tuple[Array, Array, Array, Array]) -> tuple:
        v, residual, direction, square = carry
        applied = apply(direction)
        curvature = dot(direction, applied)
        goes_on = (square > solved) & (curvature > 0.0)
        size = jnp.where(goes_on, square / jnp.where(goes_on, curvature, 1.0), 0.0)
        v = v + expand(size, b) * direction
        residual = residual - expand(size, b) * applied
        new = dot(residual, residual)
        turn = jnp.where(goes_on, new / jnp.where(goes_on, square, 1.0), 0.0)
        direction = jnp.where(expand(goes_on, b), residual + expand(turn, b) * direction, direction)
        return v, residual, direction, jnp.where(goes_on, new, square)

    carry = (jnp.zeros_like(b), b, b, dot(b, b))
    return jax.lax.fori_loop(0, iterations, step, carry)[0]


def weighted_back(
    operator: Operator,
    residual: Array,
    like: Array,
    variance: Array,
    noise_variance: Array,
    iterations: int,
) -> Array:
    """A^T (variance A A^T + noise_variance I)^-1 residual, [B, *event]; the variances are [B]."""

    def apply(v: Array) -> Array:
        through = operator(operator.transpose(v, like))
        return expand(variance, v) * through + expand(noise_variance, v) * v

    solved = conjugate_gradients(apply, residual, iterations)
    return operator.transpose(solved, like)


def toward(operator: Operator, x: Array, y: Array, iterations: int) -> Array:
    """The sample nearest to x whose measurement is y: x + A^+ (y - A x), [B, *event]."""
    ones, none = jnp.ones(len(x), x.dtype), jnp.zeros(len(x), x.dtype)
    return x + weighted_back(operator, y - operator(x), x, ones, none, iterations)
