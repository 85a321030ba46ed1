"""A residual network on flat vectors, for data of few dimensions and for small images."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.networks.conditions import Conditions
from sde_diffusion.networks.embeddings import EMBEDDINGS, level_features
from sde_diffusion.networks.layers import ACTIVATIONS, Array, dense
from sde_diffusion.selection import require_known


class MLP(nn.Module):
    """network(x, t) of the shape of x [B, *event], by blocks h + W2 act(W1 (norm(h) (1 + a) + b)).

    a and b are linear in an embedding of the time and the class, as in the adaptive normalization
    of Perez et al. 2018 and Peebles & Xie 2023.

    t [B] is the time label: a standard deviation for "fourier", anything else for "positional".
    cond holds class labels [B], or a dict with `label`, `tokens` and `image`: see `conditions`.

    features, num_blocks: width of h, and how many blocks.
    octaves: how many sines and cosines of x, of periods 2, 1, 1/2, ..., enter beside it: a help
        where the data has fine structure in few dimensions (Tancik et al. 2020).
    embedding_features: features of the time label.
    label_scale: what the label is multiplied by; 1000 for labels within a few units of 0.
    dropout: inside the blocks, where train is true.
    num_classes, vocabulary, image_channels, learned_null, numbers: the conditions that it takes,
        see `conditions.Conditions`; without them it has no parameters for them.
    dtype: of the computation; parameters, normalizations and output are in float32.

    Raises ValueError for an unknown choice.
    """

    features: int = 256
    num_blocks: int = 3
    octaves: int = 0
    dropout: float = 0.0
    nonlinearity: str = "swish"
    embedding_type: str = "positional"
    fourier_scale: float = 1.0
    embedding_features: int = 64
    label_scale: float = 1.0
    num_classes: int | None = None
    vocabulary: int | None = None
    image_channels: int | None = None
    learned_null: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices = {
            "nonlinearity": ACTIVATIONS,
            "embedding_type": EMBEDDINGS,
            "dtype": ("float32", "bfloat16"),
        }
        for field, known in choices.items():
            require_known(field, getattr(self, field), known)
        self.conditions().check()
        super().__post_init__()

    def conditions(self) -> Conditions:
        return Conditions(
            self.num_classes,
            self.vocabulary,
            self.image_channels,
            self.learned_null,
            self.numbers,
            self.label_scale,
        )

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Any = None, *, train: bool = False) -> Array:
        act = ACTIVATIONS[self.nonlinearity]
        dtype = jnp.dtype(self.dtype)
        width = 4 * self.embedding_features
        embedding = dense(
            level_features(
                self.label_scale * t,
                self.embedding_features,
                self.embedding_type,
                self.fourier_scale,
            ).astype(dtype),
            width,
        )
        conditions = self.conditions()
        told = conditions.vector(cond, x.shape[0], width)
        embedding = embedding if told is None else embedding + told.astype(dtype)
        embedding = act(dense(act(embedding), width))

        flat = x.reshape(x.shape[0], -1)
        angles = [jnp.pi * 2**k * flat for k in range(self.octaves)]
        # With a constant beside it: in few dimensions normalization would lose the size of x.
        parts = [flat, *map(jnp.sin, angles), *map(jnp.cos, angles), jnp.ones_like(flat[:, :1])]
        image = conditions.image(cond, x)
        if image is not None:
            parts.append(image.reshape(x.shape[0], -1))
        h = dense(jnp.concatenate(parts, axis=-1).astype(dtype), self.features)
        for _ in range(self.num_blocks):
            scale, shift = jnp.split(dense(embedding, 2 * self.features), 2, axis=-1)
            inner = act(dense(_norm(h) * (1 + scale) + shift, self.features))
            inner = nn.Dropout(self.dropout, deterministic=not train)(inner)
            h = h + dense(inner, self.features, init_scale=0.0)
        out = dense(_norm(h), x.size // x.shape[0], init_scale=0.0)
        return out.astype(jnp.float32).reshape(x.shape)


def _norm(h: Array) -> Array:
    """A LayerNorm of the module that calls this, in float32."""
    return nn.LayerNorm(dtype=jnp.float32)(h).astype(h.dtype)
