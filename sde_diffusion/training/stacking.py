"""Small leaves of one shape as one array, for what is done to every element alike.

Two thirds of the leaves of a U-Net are biases and norms, with 0.2 % of its elements. To an
accelerator an operation on one of them costs as much as on a thousand times as many elements, and
an optimizer with an average needs several for each.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sde_diffusion.layerwise import MIN_SIZE


class Stacking(NamedTuple):
    """Takes trees like `like` apart and puts them together again.

    `stack` gives a list of arrays: leaves of one shape, small enough to be whole on every device,
    are slices of one of them, and every other leaf is one itself.
    """

    like: Any

    def stack(self, tree: Any) -> list[jax.Array]:
        leaves = jax.tree.leaves(tree)
        return [
            leaves[group[0]] if len(group) == 1 else jnp.stack([leaves[i] for i in group])
            for group in self._groups()
        ]

    def unstack(self, stacked: list[jax.Array]) -> Any:
        leaves: dict[int, jax.Array] = {}
        for group, array in zip(self._groups(), stacked, strict=True):
            leaves.update(zip(group, [array] if len(group) == 1 else array, strict=True))
        return jax.tree.unflatten(
            jax.tree.structure(self.like), [leaves[i] for i in sorted(leaves)]
        )

    def stack_within(self, tree: Any) -> Any:
        """The tree with `stack` of every subtree like `like`: an optimizer's state has several."""
        return _replace(tree, self.like, self.stack)

    def unstack_within(self, tree: Any) -> Any:
        """The inverse of stack_within."""
        return _replace(tree, jax.eval_shape(self.stack, self.like), self.unstack)

    def _groups(self) -> list[list[int]]:
        """The numbers of the leaves that go together."""
        groups = defaultdict(list)
        for i, leaf in enumerate(jax.tree.leaves(self.like)):
            small = leaf.size < MIN_SIZE
            groups[(leaf.shape, leaf.dtype) if small else i].append(i)
        return list(groups.values())


def _replace(tree: Any, like: Any, function: Callable[[Any], Any]) -> Any:
    """The tree with the function of every subtree that has the structure and shapes of `like`."""

    def form(tree: Any) -> tuple[Any, list[tuple[int, ...]]]:
        leaves, structure = jax.tree.flatten(tree)
        return structure, [jnp.shape(leaf) for leaf in leaves]

    wanted = form(like)

    def alike(subtree: Any) -> bool:
        return form(subtree) == wanted

    return jax.tree.map(lambda t: function(t) if alike(t) else t, tree, is_leaf=alike)
