"""TMPD: x_0 given x_t taken for a Gaussian of the model's own covariance; direct."""

from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion.inverse.operator import Operator
from sde_diffusion.inverse.tweedie import Count, Seen, require_fit, see
from sde_diffusion.model import Model
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array, expand


def tmpd(model: Model, operator: Operator | None = None, *, diagonal: bool = False) -> Model:
    """The model of p(x_0 | y) with x_0 given x_t taken for N(E[x_0 | x_t], V), V = Cov[x_0 | x_t].

        g = J^T A^T (A V A^T + std^2 I)^-1 (y - A E[x_0 | x_t]),     V = sigma^2 / alpha J

    The M x M matrix is made by M backward passes, one for each measurement, so M is some hundreds
    at most; `mmps` solves the same system step by step. With diagonal=True, A V A^T is replaced by
    the diagonal of its row sums, A V A^T 1, which takes one backward pass whatever M is, and is
    meant for images whose pixels correlate with their neighbours.

    Exact for Gaussian data; with diagonal=True only where A V A^T is diagonal. A must be linear.
    Source: Boys et al. 2024 (TMPD); the diagonal is its DTMPD.
    """
    require_fit(model, operator, "tmpd")
    return Model(model.sde, _tmpd, (model, operator, Count(bool(diagonal))))


def _tmpd(params: Any, sde: SDE, x: Array, t: Array, cond: Any) -> Prediction:
    model, operator, diagonal = params
    seen = see(model, operator, x, t, cond, "tmpd")
    solved = _by_row_sums(seen) if diagonal else _directly(seen)
    return seen.guided(seen.operator.transpose(solved, seen.x0))


def _across(seen: Seen, v: Array) -> Array:
    """A V A^T v, [B, *out]."""
    return seen.operator(seen.covariance(seen.operator.transpose(v, seen.x0)))


def _by_row_sums(seen: Seen) -> Array:
    variance = _across(seen, jnp.ones_like(seen.residual))
    total = jnp.maximum(variance, 0.0) + expand(seen.variance, variance)
    return jnp.where(total > 0.0, seen.residual / jnp.where(total > 0.0, total, 1.0), 0.0)


def _directly(seen: Seen) -> Array:
    batch, *out = seen.residual.shape
    size = seen.residual[0].size
    basis = jnp.eye(size, dtype=seen.residual.dtype).reshape(size, 1, *out)

    def column(direction: Array) -> Array:
        return _across(seen, jnp.broadcast_to(direction, seen.residual.shape))

    columns = jax.lax.map(column, basis).reshape(size, batch, size)
    matrix = jnp.moveaxis(columns, 0, 2)
    matrix = 0.5 * (matrix + jnp.swapaxes(matrix, 1, 2))
    values, vectors = jnp.linalg.eigh(matrix + seen.variance[:, None, None] * jnp.eye(size))
    # Entries that A leaves at 0 have no variance, and their residual is 0.
    varies = values > size * jnp.finfo(values.dtype).eps * values[:, -1:]
    inverse = jnp.where(varies, 1.0 / jnp.where(varies, values, 1.0), 0.0)
    flat = seen.residual.reshape(batch, size)
    precise = "highest"
    in_basis = jnp.einsum("bmk,bm->bk", vectors, flat, precision=precise) * inverse
    solved = jnp.einsum("bmk,bk->bm", vectors, in_basis, precision=precise)
    return solved.reshape(seen.residual.shape)
