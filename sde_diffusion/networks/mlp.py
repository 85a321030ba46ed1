"""A residual network for data of few dimensions."""

import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.choices import unknown
from sde_diffusion.networks.embeddings import EMBEDDINGS, embed_class, embed_level, level_features
from sde_diffusion.networks.layers import ACTIVATIONS, Array, dense


class MLP(nn.Module):
    """network(x, t) of the shape of x [B, *event], by residual blocks h + W2 act(W1 act(h) + W e).

    t [B] is the time label: a standard deviation for "fourier", anything else for "positional".
    condition [B] holds class labels, a negative one for no class; None is no class for all.
    Raises ValueError for an unknown choice.
    """

    features: int = 128
    num_blocks: int = 3
    nonlinearity: str = "swish"
    embedding_type: str = "positional"
    fourier_scale: float = 1.0
    embedding_features: int = 32
    num_classes: int | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices = {
            "nonlinearity": ACTIVATIONS,
            "embedding_type": EMBEDDINGS,
            "dtype": ("float32", "bfloat16"),
        }
        for field, known in choices.items():
            if getattr(self, field) not in known:
                raise ValueError(unknown(field, getattr(self, field), known))
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Array, t: Array, *, condition: Array | None = None, train: bool = False
    ) -> Array:
        act = ACTIVATIONS[self.nonlinearity]
        dtype = jnp.dtype(self.dtype)
        width = 4 * self.embedding_features
        level = level_features(
            t, self.embedding_features, self.embedding_type, self.fourier_scale
        ).astype(dtype)
        embedding = embed_level(level, width, act)
        named = embed_class(condition, x.shape[0], self.num_classes, width, dtype)
        embedding = act(embedding if named is None else embedding + named)
        h = dense(x.reshape(x.shape[0], -1).astype(dtype), self.features)
        for _ in range(self.num_blocks):
            inner = dense(act(h), self.features) + dense(embedding, self.features)
            h = h + dense(act(inner), self.features, init_scale=0.0)
        event = x.size // x.shape[0]
        return dense(act(h), event, init_scale=0.0).astype(jnp.float32).reshape(x.shape)
