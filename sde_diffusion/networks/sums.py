"""Sums over axes and the repetition along them, each the other's gradient.

    total(x, axes) = sum of x over the axes,    spread(v, axes, sizes) = v, repeated along new axes.

The gradient of whatever is repeated, such as a bias, is a sum over the axes of repetition, and
that of a sum is a repetition. On a TPU in bfloat16 such a sum is computed as a product with ones.
By the compiler's estimates for v5e it then takes a tenth of the time where the values are stored,
and half of it where they are computed to be summed. The values are rounded to bfloat16, as the
factors of every product are; the sums are in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Array = jax.Array
Axes = tuple[int, ...]

ONES = 8  # columns of the matrix of ones; with a single one the compiler takes it for a sum


def total(x: Array, axes: Axes, dtype: Any) -> Array:
    """The sums of a float32 array over these axes, in float32.

    dtype is that of the computation: in bfloat16, TPUs round the values that they sum to it.
    """
    result: Array = total_p.bind(x, axes=_counted(axes, x.ndim), factors=jnp.dtype(dtype))
    return result


def spread(v: Array, axes: Axes, sizes: tuple[int, ...], dtype: Any) -> Array:
    """A float32 array, repeated along new axes: those of the result, which have these sizes.

    dtype: that of the computation; see `total`, which gives the gradient.
    """
    counted = _counted(axes, v.ndim + len(axes))
    result: Array = spread_p.bind(v, axes=counted, sizes=tuple(sizes), factors=jnp.dtype(dtype))
    return result


def _counted(axes: Axes, ndim: int) -> Axes:
    return tuple(axis % ndim for axis in axes)


total_p, spread_p = Primitive("total"), Primitive("spread")


def _total(x: Array, *, axes: Axes, factors: Any) -> Array:
    return jnp.sum(x, axes)


def by_product(x: Array, *, axes: Axes, factors: Any) -> Array:
    """The sums over these axes as TPUs compute them: in bfloat16, by a product with ones."""
    if factors != jnp.bfloat16:
        return _total(x, axes=axes, factors=factors)
    ones = jnp.ones((*(x.shape[axis] for axis in axes), ONES), factors)
    contracted = (axes, tuple(range(len(axes))))
    sums = lax.dot_general(
        x.astype(factors), ones, (contracted, ((), ())), preferred_element_type=jnp.float32
    )
    return sums[..., 0]


def _spread(v: Array, *, axes: Axes, sizes: tuple[int, ...], factors: Any) -> Array:
    kept = [axis for axis in range(v.ndim + len(axes)) if axis not in axes]
    return lax.broadcast_in_dim(v, _spread_shape(v.shape, axes, sizes), kept)


def _total_shape(shape: tuple[int, ...], axes: Axes) -> tuple[int, ...]:
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _spread_shape(shape: tuple[int, ...], axes: Axes, sizes: tuple[int, ...]) -> tuple[int, ...]:
    new, old = dict(zip(axes, sizes, strict=True)), iter(shape)
    return tuple(new[axis] if axis in new else next(old) for axis in range(len(shape) + len(axes)))


def _transpose_total(y: Array, x: Any, *, axes: Axes, factors: Any) -> list[Array]:
    sizes = tuple(x.aval.shape[axis] for axis in axes)
    return [spread_p.bind(y, axes=axes, sizes=sizes, factors=factors)]


def _transpose_spread(
    y: Array, _: Any, *, axes: Axes, sizes: tuple[int, ...], factors: Any
) -> list[Array]:
    return [total_p.bind(y, axes=axes, factors=factors)]


def _batched(primitive: Primitive, args: Any, dims: Any, *, axes: Axes, **parameters: Any) -> Any:
    (x,), (dim,) = args, dims
    moved = tuple(axis + 1 for axis in axes)
    return primitive.bind(jnp.moveaxis(x, dim, 0), axes=moved, **parameters), 0


def _register(primitive: Primitive, compute: Any, transpose: Any, shape: Any) -> None:
    static = ("axes", "sizes", "factors")
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=static))
    primitive.def_abstract_eval(
        lambda x, factors, **parameters: jax.core.ShapedArray(shape(x.shape, **parameters), x.dtype)
    )
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    ad.deflinear2(primitive, transpose)
    batching.primitive_batchers[primitive] = lambda args, dims, **parameters: _batched(
        primitive, args, dims, **parameters
    )


_register(total_p, _total, _transpose_total, _total_shape)
_register(spread_p, _spread, _transpose_spread, _spread_shape)
mlir.register_lowering(total_p, mlir.lower_fun(by_product, multiple_results=False), platform="tpu")
