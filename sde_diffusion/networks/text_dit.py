"""A diffusion transformer that reads a text, trained together with its text encoder.

The text's tokens, or their states by a frozen encoder, go through layers of their own. An image
layer is DiT's, except that a query of the image sees the keys and values of the text beside those
of the image,

    h <- h + g1 attention(q(h'), [k(h'), k_text(c)], [v(h'), v_text(c)]),   h' = modulate(h, s1, b1)
    h <- h + g2 mlp(modulate(h, s2, b2)),

with c the encoded text, as in Imagen's layers. Queries and keys are normalized. The mean of c joins
the embedding of the time, which gives the shifts b, scales s and gates g. Padding is never seen. A
text of padding alone is no text: then a layer is one of a network without text.

With `fine_depth`, narrower layers see patches of half the size, before and after the others:

    f <- before(patches of P/2),   h <- layers(merge of 2x2 f),   f <- after(f + split of h).

The wide layers then run on few tokens, and the details of a patch are decided by tokens that see
those of the neighbouring patches.

Peebles & Xie 2023, "Scalable diffusion models with transformers"; Saharia et al. 2022,
"Photorealistic text-to-image diffusion models with deep language understanding"; Crowson et al.
2024, "Scalable high-resolution pixel-space image synthesis with hourglass diffusion transformers".
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sde_diffusion.layerwise import SCANNED
from sde_diffusion.networks.attention import attention
from sde_diffusion.networks.conditions import PADDING, Conditions
from sde_diffusion.networks.dit import (
    CHOICES,
    INIT_STD,
    Heads,
    LastLayer,
    LevelEmbedding,
    Modulation,
    add_gated,
    image,
    modulate,
    patches,
    positions,
    require_patches,
    waves,
)
from sde_diffusion.networks.layers import Array, Dense
from sde_diffusion.networks.normalization import LayerNorm, RMSNorm
from sde_diffusion.networks.scan import scanned
from sde_diffusion.selection import require_known


class TextDiT(nn.Module):
    """network(x, t, cond) of the shape of x [B, H, W, C], with H and W multiples of the patch size.

    cond is a dict with `tokens` int [B, L], 0 for padding, and the other conditions that it takes;
    see `conditions`. Without tokens, or where all of them are padding, there is no text. With
    `text_features` it has `text` float [B, L, text_features] in their place, the states of tokens
    by another encoder, where a state of zeros is padding.

    vocabulary: how many different tokens there are, padding included; None with `text_features`.
    text_features: width of the states of a text's tokens; None where it is read as tokens.
    patch_size: pixels of a patch along an axis.
    depth, features, num_heads: layers, width of the tokens, heads.
    text_depth: layers of the text encoder, of the same width.
    word_rate: how many times as fast as other parameters the words' vectors are learned, as far as
        Adam moves all parameters equally fast: a vector is `word_rate` times its parameters, which
        begin with a standard deviation of 1 / word_rate. A word that few texts have is then learned
        from few of them.
    fine_depth: layers at half the patch size before, and as many after, the others; 0 for none.
    fine_features: width of their tokens; their heads are as wide as those of the others.
    label_scale: what the time label is multiplied by before its sines and cosines are taken; they
        resolve labels from 0 to 1000.
    num_classes, image_channels, learned_null, numbers: see `conditions.Conditions`.
    dtype: of the computation; parameters, normalizations, softmax and output are in float32.
    remat: what the backward pass computes again instead of keeping it; see `networks.scan`.
    attention: the implementation, see `networks.attention`.

    Raises ValueError for an unknown choice, a text that is read both ways or none, a learned null
    of the text, a word_rate that is not positive, fine layers that do not fit, and an image that
    the patches do not divide.
    """

    vocabulary: int | None = 257
    text_features: int | None = None
    patch_size: int = 2
    depth: int = 8
    features: int = 256
    num_heads: int = 4
    text_depth: int = 2
    word_rate: float = 1.0
    fine_depth: int = 0
    fine_features: int = 128
    label_scale: float = 1.0
    num_classes: int | None = None
    image_channels: int | None = None
    learned_null: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"

    def __post_init__(self) -> None:
        for field in ("dtype", "remat", "attention"):
            require_known(field, getattr(self, field), CHOICES[field])
        if (self.vocabulary is None) == (self.text_features is None):
            raise ValueError(
                f"vocabulary is {self.vocabulary} and text_features {self.text_features}: a text "
                "is read as tokens or as states of an encoder, so one of them must be None"
            )
        if "tokens" in self.learned_null:
            raise ValueError("learned_null: without a text, no text is seen; nothing is learned")
        if self.word_rate <= 0:
            raise ValueError(f"word_rate: {self.word_rate} is not positive")
        if self.fine_depth:
            self._require_fine()
        self.conditions().check()
        super().__post_init__()

    @property
    def told(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the embeddings of a text that one sample is told, with one token."""
        return {} if self.text_features is None else {"text": (1, self.text_features)}

    def conditions(self) -> Conditions:
        """The conditions beside the text."""
        return Conditions(
            self.num_classes, None, self.image_channels, self.learned_null, self.numbers
        )

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Any = None, *, train: bool = False) -> Array:
        require_patches(x, self.patch_size, self.features, self.num_heads)
        dtype = jnp.dtype(self.dtype)
        given, others = self._split(cond, x.shape[0])
        text, seen = self._read(given, dtype)
        embedding = LevelEmbedding(self.features, name="level")(self.label_scale * t, dtype)
        embedding = embedding.astype(jnp.float32)
        embedding = embedding + Dense(self.features, name="pooled")(_mean(text, seen))
        told = self.conditions().vector(others, x.shape[0], self.features, INIT_STD)
        embedding = embedding if told is None else embedding + told
        beside = self.conditions().image(others, x)
        shown = x if beside is None else jnp.concatenate([x, beside], axis=-1)

        size, last = self.patch_size, embedding
        if self.fine_depth:
            h, last = self._finer(shown.astype(dtype), embedding, text, seen)
            size //= 2
        else:
            h = Dense(self.features, name="patches")(patches(shown.astype(dtype), size))
            h = self._layers("blocks", self.depth, _placed(h, x, size), embedding, text, seen)
        y = LastLayer(size**2 * x.shape[-1], name="last")(h, last)
        return image(y, x.shape[1:3], size).astype(jnp.float32)

    def _finer(self, x: Array, embedding: Array, text: Array, seen: Array) -> tuple[Array, Array]:
        """Tokens of half the patch size, through all layers, and the embedding of their width."""
        size, width = self.patch_size // 2, self.fine_features
        grid = (x.shape[1] // size, x.shape[2] // size)
        told = Dense(width, name="fine_embedding")(embedding)
        words = Dense(width, name="fine_words")(text)
        fine = _placed(Dense(width, name="fine_patches")(patches(x, size)), x, size)
        fine = self._layers("fine_before", self.fine_depth, fine, told, words, seen)
        h = Dense(self.features, name="merge")(patches(fine.reshape(-1, *grid, width), 2))
        h = _placed(h, x, self.patch_size)
        h = self._layers("blocks", self.depth, h, embedding, text, seen)
        apart = image(Dense(4 * width, name="split")(h), grid, 2)
        fine = fine + apart.reshape(fine.shape)
        return self._layers("fine_after", self.fine_depth, fine, told, words, seen), told

    def _layers(
        self, name: str, depth: int, h: Array, embedding: Array, text: Array, seen: Array
    ) -> Array:
        """Tokens h [B, T, D] after `depth` layers, whose heads are as wide as those of all."""
        kind = scanned(
            Block, depth, remat=self.remat, dtype=h.dtype, initializing=self.is_initializing()
        )
        heads = h.shape[-1] * self.num_heads // self.features
        layers = kind(heads, self.attention, name=f"{SCANNED}_{name}")
        tokens: Array = layers(h, embedding, text, seen)[0]
        return tokens

    def _require_fine(self) -> None:
        if self.patch_size % 2:
            raise ValueError(
                f"patch_size: {self.patch_size} is odd, so fine layers cannot halve it"
            )
        if self.fine_features % 4 or self.fine_features * self.num_heads % self.features:
            raise ValueError(
                f"fine_features: {self.fine_features} is not a multiple of a head's "
                f"{self.features // self.num_heads} features, or not of 4"
            )

    def _split(self, cond: Any, batch: int) -> tuple[Array, Any]:
        """The text, one token of padding where there is none, and the other conditions."""
        name, nothing = "tokens", jnp.full((batch, 1), PADDING)
        if self.text_features is not None:
            name, nothing = "text", jnp.zeros((batch, 1, self.text_features))
        if not isinstance(cond, dict) or name not in cond:
            return nothing, cond
        return cond[name], {key: each for key, each in cond.items() if key != name}

    def _read(self, given: Array, dtype: Any) -> tuple[Array, Array]:
        """The encoded text [B, L, features], and bool [B, L]: which tokens are no padding."""
        if self.vocabulary is None:
            # The encoder's states know the places of their tokens.
            seen = jnp.any(given != 0, axis=-1)
            h = Dense(self.features, name="states")(given.astype(dtype))
        else:
            seen, h = given != PADDING, self._words(given, self.vocabulary).astype(dtype)
        layers = scanned(
            TextLayer,
            self.text_depth,
            remat=self.remat,
            dtype=dtype,
            initializing=self.is_initializing(),
        )
        h, _ = layers(self.num_heads, self.attention, name=f"{SCANNED}_text")(h, seen)
        return LayerNorm(name="text_norm")(h), seen

    def _words(self, tokens: Array, vocabulary: int) -> Array:
        """The vectors of tokens [B, L] at their places, [B, L, features]."""
        init = nn.initializers.normal(1 / self.word_rate)
        table = nn.Embed(vocabulary, self.features, embedding_init=init, name="words")
        made: Array = self.word_rate * table(tokens)
        return made + waves(np.arange(tokens.shape[1]), self.features)


class TextLayer(nn.Module):
    """Tokens of a text [B, L, D] and which of them are seen, bool [B, L] -> (tokens, None)."""

    num_heads: int
    implementation: str

    @nn.compact
    def __call__(self, h: Array, seen: Array) -> tuple[Array, None]:
        features = h.shape[-1]
        inner = LayerNorm(name="norm1")(h)
        query, key, value = Heads(3, self.num_heads, name="qkv")(inner)
        # A text of padding alone sees itself: a softmax over nothing is not a number.
        mask = (seen | ~seen.any(axis=1, keepdims=True))[:, None, None, :]
        found = attention(query, key, value, mask, self.implementation).reshape(h.shape)
        h = h + Dense(features, name="attended")(found)
        inner = jax.nn.gelu(Dense(4 * features, name="hidden")(LayerNorm(name="norm2")(h)))
        return h + Dense(features, name="output")(inner), None


class Block(nn.Module):
    """Image tokens [B, T, D], the embedding [B, D] and the text [B, L, D] -> (tokens, None)."""

    num_heads: int
    implementation: str

    @nn.compact
    def __call__(self, h: Array, embedding: Array, text: Array, seen: Array) -> tuple[Array, None]:
        features = h.shape[-1]
        shift1, scale1, gate1, shift2, scale2, gate2 = Modulation(6, name="modulation")(
            embedding, h.dtype
        )
        inner = modulate(h, shift1, scale1)
        query, key, value = Heads(3, self.num_heads, name="qkv")(inner)
        of_text = Heads(2, self.num_heads, name="text_kv")(text)
        norm_key = RMSNorm(name="norm_key")
        key = jnp.concatenate([norm_key(key), norm_key(of_text[0])], axis=1)
        value = jnp.concatenate([value, of_text[1]], axis=1)
        of_image = jnp.ones(h.shape[:2], bool)
        mask = jnp.concatenate([of_image, seen], axis=1)[:, None, None, :]
        query = RMSNorm(name="norm_query")(query)
        found = attention(query, key, value, mask, self.implementation).reshape(h.shape)
        h = add_gated(h, gate1, Dense(features, name="attended")(found))
        inner = modulate(h, shift2, scale2)
        inner = jax.nn.gelu(Dense(4 * features, name="hidden")(inner))
        return add_gated(h, gate2, Dense(features, name="output")(inner)), None


def _placed(h: Array, x: Array, size: int) -> Array:
    """Tokens of the patches of images x, of `size` pixels, with the vectors of their places."""
    places = positions(x.shape[1] // size, x.shape[2] // size, h.shape[-1])
    return (h + places).astype(h.dtype)


def _mean(text: Array, seen: Array) -> Array:
    """The mean over the tokens that are seen, float32 [B, D]; zeros where none is."""
    weight = seen[..., None].astype(jnp.float32)
    return jnp.sum(text * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1)
