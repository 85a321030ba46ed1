"""Layers of one shape, run by a scan: compiled once, however many they are.

Their parameters are arrays [L, ...]. If these are split over a mesh, a device gathers one layer at
a time; see `layerwise`. `remat` chooses what the forward pass stores for the backward pass:

- "none": the results of all operations except very cheap ones, such as conversions;
- "pointwise": the results of affine maps and attention; all others are computed again;
- "gated": the input of each layer, and what its gates multiply, which the gradient of a gate needs:
  without it all of the layer is computed again, up to its last product;
- "blocks": the input of each layer.

A gathered layer is never stored.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from sde_diffusion.layerwise import gather_layer
from sde_diffusion.networks.attention import ATTENTION
from sde_diffusion.networks.layers import AFFINE, GATED

# Operations between a parameter and the product in which it is used. A policy that stored their
# results would store the parameters of every layer.
FREE = {
    *("linear_call", "sharding_constraint", "optimization_barrier", "convert_element_type"),
    *("reshape", "transpose", "squeeze", "slice", "split", "broadcast_in_dim", "spread"),
}


def _all_but_free(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in FREE


REMAT: dict[str, Callable[..., bool]] = {
    "none": _all_but_free,
    "pointwise": jax.checkpoint_policies.save_only_these_names(AFFINE, ATTENTION),
    "gated": jax.checkpoint_policies.save_only_these_names(GATED),
    "blocks": jax.checkpoint_policies.nothing_saveable,
}


def scanned(
    layer: type[nn.Module],
    depth: int,
    *,
    remat: str,
    dtype: Any,
    initializing: bool,
    each: bool = False,
) -> type[nn.Module]:
    """The class of `depth` layers, run one after another.

    A module of it has the fields of `layer`. Where that maps (h, *others) to (h, made), this maps
    them to (h, [L, ...] of what the layers have made), with the same `others` for every layer; what
    is made may be None. Give it a name that begins with `SCANNED`.

    Args:
        layer: the class of one layer.
        depth: L, how many there are.
        remat: a key of REMAT.
        dtype: that of the computation, in which parameters that are split over a mesh travel.
        initializing: whether the parameters are being made, as the parent's `is_initializing` says.
        each: whether `others` are [L, ...], of which every layer gets its own.
    """
    gathered = nn.map_variables(
        layer,
        "params",
        trans_in_fn=lambda params: gather_layer(params, dtype),
        init=initializing,
        mutable=initializing,
    )
    # The forward and backward passes are separate loops, so that the compiler shares nothing.
    kept = nn.remat(gathered, policy=REMAT[remat], prevent_cse=False)
    of_all: type[nn.Module] = nn.scan(
        kept,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=depth,
        in_axes=0 if each else nn.broadcast,
    )
    return of_all
