"""Contrastive learning of pictures and captions: each picture finds its caption, and the reverse.

    L_i = -1/2 [ log softmax_j(s f_i . g_j)  at j = i   +   log softmax_j(s f_j . g_i)  at j = i ]

for a batch of pictures and captions with the vectors f_i and g_i, and a scale s that is learned as
its logarithm. Radford et al. 2021, "Learning transferable visual models from natural language
supervision". Captions that several pictures of a batch share are no wrong answers for each other.
"""

import jax
import jax.numpy as jnp

from sde_diffusion.sdes import Array


def contrastive_loss(
    pictures: Array, captions: Array, scale: Array | float, same: Array | None = None
) -> Array:
    """The loss above in nats, [B].

    Args:
        pictures, captions: vectors [B, D] of length 1; row i of both belongs together.
        scale: s, what the products are multiplied by.
        same: bool [B, B], whether pair j has the caption of pair i. Such pairs j != i are left out
            of both sums. By default all captions differ.
    """
    logits = scale * pictures @ captions.T
    own = jnp.diag(logits)
    if same is not None:
        others = same & ~jnp.eye(len(own), dtype=bool)
        logits = jnp.where(others, -jnp.inf, logits)
    sums = jax.nn.logsumexp(logits, axis=0) + jax.nn.logsumexp(logits, axis=1)
    return sums / 2 - own
