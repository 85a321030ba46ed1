"""Matrix products of a network that computes in bfloat16, its gradients included.

The product of x in bfloat16 with a float32 parameter w is computed in bfloat16 and summed in
float32. In the gradients that JAX derives from such a product, the gradient of the result is
float32: a GPU then computes them in float32, at a small part of the speed. So the product is a
primitive here, bilinear like JAX's own, whose gradients are computed in the narrower dtype as well.
The gradient of w is summed in float32, over devices too.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Array = jax.Array
Axes = tuple[int, ...]


def product(x: Array, w: Array) -> Array:
    """x w, [..., C] times [C, features] -> [..., features], in the dtype of w.

    The factors are rounded to the narrower of their dtypes; the sums are not.
    """
    factors = min(x.dtype, w.dtype, key=lambda dtype: dtype.itemsize)
    axes = ((x.ndim - 1,), (0,))
    result: Array = product_p.bind(x, w, contracted=axes, factors=factors, dtype=w.dtype)
    return result


# product_p is lax.dot_general without batch axes: `contracted` gives the axes of x and w that are
# summed over, `factors` the dtype to which x and w are rounded, `dtype` that of the result.

product_p = Primitive("product")


def _product(
    x: Array, w: Array, *, contracted: tuple[Axes, Axes], factors: Any, dtype: Any
) -> Array:
    x, w = x.astype(factors), w.astype(factors)
    return lax.dot_general(x, w, (contracted, ((), ())), preferred_element_type=dtype)


def _product_on_cpu(
    x: Array, w: Array, *, contracted: tuple[Axes, Axes], factors: Any, dtype: Any
) -> Array:
    """The same; in bfloat16, as a product of matrices in the order that a CPU's kernel needs.

    With AMX, XLA's kernel for bfloat16 matrices x [M, K] and w [K, N] or [N, K], stored row by row,
    and a float32 result is 3 to 6 times as fast as a product in float32. Any other order of the
    axes, more of them, or a bfloat16 result gets a kernel that is slower than that.
    """
    if jnp.dtype(factors) != jnp.bfloat16:
        return _product(x, w, contracted=contracted, factors=factors, dtype=dtype)
    summed_x, summed_w = contracted
    free_x, free_w = _others(x.ndim, summed_x), _others(w.ndim, summed_w)
    rows = _matrix(x.astype(factors), free_x, summed_x)
    first = bool(summed_w) and summed_w[0] == 0  # w is stored as [K, N]
    columns = _matrix(w.astype(factors), *((summed_w, free_w) if first else (free_w, summed_w)))
    axes = (((1,), (0 if first else 1,)), ((), ()))
    y = lax.dot_general(rows, columns, axes, preferred_element_type=jnp.float32)
    shape = (*(x.shape[axis] for axis in free_x), *(w.shape[axis] for axis in free_w))
    return y.reshape(shape).astype(dtype)


def _matrix(x: Array, rows: Axes, columns: Axes) -> Array:
    """x with these axes as rows and columns, stored row by row: a copy where it is stored else."""
    if (*rows, *columns) == tuple(range(x.ndim)):
        return x.reshape(math.prod(x.shape[axis] for axis in rows), -1)
    moved = jnp.transpose(x, (*rows, *columns))
    matrix = moved.reshape(math.prod(x.shape[axis] for axis in rows), -1)
    return with_layout_constraint(matrix, Layout(major_to_minor=(0, 1)))


# The axes of a result are the free axes of x, then those of w, each in order.


def _transpose_x(
    y: Array, x: Any, w: Array, *, contracted: tuple[Axes, Axes], factors: Any, dtype: Any
) -> Array:
    summed_x, summed_w = contracted
    free_x, free_w = _others(x.aval.ndim, summed_x), _others(w.ndim, summed_w)
    of_w = tuple(range(len(free_x), y.ndim))
    axes = (of_w, free_w)
    gradient = product_p.bind(y, w, contracted=axes, factors=factors, dtype=x.aval.dtype)
    return _in_order(gradient, (*free_x, *_by(summed_w, summed_x)))


def _transpose_w(
    y: Array, x: Array, w: Any, *, contracted: tuple[Axes, Axes], factors: Any, dtype: Any
) -> Array:
    summed_x, summed_w = contracted
    free_x, free_w = _others(x.ndim, summed_x), _others(w.aval.ndim, summed_w)
    of_x = tuple(range(len(free_x)))
    axes = (free_x, of_x)
    gradient = product_p.bind(x, y, contracted=axes, factors=factors, dtype=w.aval.dtype)
    return _in_order(gradient, (*_by(summed_x, summed_w), *free_w))


def _others(ndim: int, axes: Axes) -> Axes:
    return tuple(axis for axis in range(ndim) if axis not in axes)


def _by(keys: Axes, axes: Axes) -> Axes:
    """The axes in the order in which their keys increase."""
    return tuple(axes[i] for i in np.argsort(keys))


def _in_order(y: Array, axes: Axes) -> Array:
    """y, whose axes are those numbers, with its axes sorted."""
    return jnp.transpose(y, np.argsort(axes).tolist())


def _batched(args: Any, mapped: Any, **parameters: Any) -> tuple[Array, int]:
    def unmapped(x: Array, w: Array) -> Array:
        return _product(x, w, **parameters)

    return jax.vmap(unmapped, in_axes=tuple(mapped))(*args), 0


def _abstract(x: Any, w: Any, **parameters: Any) -> Any:
    y = jax.eval_shape(lambda x, w: _product(x, w, **parameters), x, w)
    return jax.core.ShapedArray(y.shape, y.dtype)


product_p.def_impl(jax.jit(product_p.bind, static_argnames=("contracted", "factors", "dtype")))
product_p.def_abstract_eval(_abstract)
mlir.register_lowering(product_p, mlir.lower_fun(_product, multiple_results=False))
mlir.register_lowering(
    product_p, mlir.lower_fun(_product_on_cpu, multiple_results=False), platform="cpu"
)
ad.defbilinear(product_p, _transpose_x, _transpose_w)
batching.primitive_batchers[product_p] = _batched
