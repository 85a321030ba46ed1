"""The interface of a measurement operator y = A(x), and operators made of a user's function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from sde_diffusion.model import as_pytree
from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import Array


class Operator:
    """A pure function from samples x [B, *event] to measurements [B, *out]; a `pytree`.

    Sample i of the output depends on sample i of x alone. `linear` says whether A is linear; then
    `transpose` follows from `jax.linear_transpose`. The arrays of an operator, such as a mask, are
    leaves: another mask compiles nothing.
    """

    linear: ClassVar[bool] = True

    def __call__(self, x: Array) -> Array:
        """A(x), [B, *out]."""
        raise NotImplementedError

    def seen(self, y: Array) -> Array:
        """y without the entries that A leaves at 0 for every x; y itself for most operators."""
        return y

    @property
    def name(self) -> str:
        return type(self).__name__

    def shape(self, x: Any) -> tuple[int, ...]:
        """The shape [B, *out] of A(x), found without computing anything."""
        given = jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
        return jax.eval_shape(self.__call__, given).shape

    def transpose(self, y: Array, like: Array) -> Array:
        """A^T y, [B, *event], for y [B, *out] and x of the shape and dtype of `like`.

        Raises ValueError, which names the operator, where JAX cannot transpose it.
        """
        self.require_linear("the transpose")
        given = jax.ShapeDtypeStruct(like.shape, like.dtype)
        try:
            return jax.linear_transpose(self.__call__, given)(y)[0]
        except (NotImplementedError, TypeError, ValueError, AssertionError) as error:
            raise ValueError(
                f"{self.name} has no transpose, so it is not linear in x: {error}"
            ) from error

    def matrix(self, event: tuple[int, ...]) -> Array:
        """A as a matrix [M, D], for events of D and outputs of M numbers; its D columns at once.

        Raises ValueError for an operator that is not linear.
        """
        self.require_linear("a matrix")
        size = math.prod(event)
        columns = self(jnp.eye(size).reshape(size, *event))
        return columns.reshape(size, -1).T

    def require_linear(self, purpose: str) -> None:
        """Raise ValueError, which names the operator and the purpose, unless A is linear."""
        if not self.linear:
            raise ValueError(f"{purpose} needs a linear operator, but {self.name} is not linear")


@pytree
class Linear(Operator):
    """A linear function of your own, x [B, *event] -> [B, *out].

    Arrays that the function uses belong into a `jax.tree_util.Partial`, so that another value of
    them compiles nothing.

        average = Linear(lambda x: x.mean(axis=-1, keepdims=True))
    """

    function: Callable[[Array], Array]

    def __post_init__(self) -> None:
        if callable(self.function):
            object.__setattr__(self, "function", as_pytree(self.function))

    @property
    def name(self) -> str:
        return f"{type(self).__name__}({_name(self.function)})"

    def __call__(self, x: Array) -> Array:
        return self.function(x)


@pytree
class Nonlinear(Linear):
    """A differentiable function of your own that is not linear, x [B, *event] -> [B, *out]."""

    linear = False


@pytree
class Composed(Operator):
    """outer(inner(x)): a blurred and then masked image, for example."""

    outer: Operator
    inner: Operator

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.outer.linear and self.inner.linear

    @property
    def name(self) -> str:
        return f"{self.outer.name} of {self.inner.name}"

    def __call__(self, x: Array) -> Array:
        return self.outer(self.inner(x))

    def seen(self, y: Array) -> Array:
        return self.outer.seen(y)


@pytree
class Own(Operator):
    """An operator of each sample's own: the leaves of `each` are [B, ...]."""

    each: Operator

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.each.linear

    @property
    def name(self) -> str:
        return self.each.name

    def __call__(self, x: Array) -> Array:
        return jax.vmap(lambda operator, x: operator(x[None])[0])(self.each, x)

    def seen(self, y: Array) -> Array:
        return jax.vmap(lambda operator, y: operator.seen(y[None])[0])(self.each, y)


def require_operator(operator: Any) -> None:
    """Raise TypeError, which says how to make one, unless it is an Operator."""
    if not isinstance(operator, Operator):
        raise TypeError(
            f"operator must be an Operator, as Inpainting(mask) or Linear(fn), got {operator!r}"
        )


def _name(function: Any) -> str:
    while hasattr(function, "func"):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)
