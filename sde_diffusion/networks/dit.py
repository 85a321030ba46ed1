"""DiT, the diffusion transformer.

An image is cut into patches, which are tokens. A layer changes them by attention and a perceptron,

    h <- h + g1 attention(modulate(h, s1, b1)),     h <- h + g2 mlp(modulate(h, s2, b2)),
    modulate(h, s, b) = layer_norm(h) (1 + s) + b,

where shifts b, scales s and gates g are linear in an embedding of the time and the class. They
start at zero (adaLN-zero), so a layer begins as the identity.

Peebles & Xie 2023, "Scalable diffusion models with transformers".
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from sde_diffusion.layerwise import SCANNED
from sde_diffusion.networks.attention import IMPLEMENTATIONS, attention
from sde_diffusion.networks.conditions import Conditions
from sde_diffusion.networks.layers import GATED, Array, Dense, affine, default_init
from sde_diffusion.networks.normalization import standardized
from sde_diffusion.networks.scan import REMAT, scanned
from sde_diffusion.networks.sums import spread
from sde_diffusion.selection import require_known

SIZES: dict[str, dict[str, int]] = {
    "S": {"depth": 12, "features": 384, "num_heads": 6},
    "B": {"depth": 12, "features": 768, "num_heads": 12},
    "L": {"depth": 24, "features": 1024, "num_heads": 16},
    "XL": {"depth": 28, "features": 1152, "num_heads": 16},
}
CHOICES: dict[str, tuple[str, ...]] = {
    "size": tuple(SIZES),
    "dtype": ("float32", "bfloat16"),
    "remat": tuple(REMAT),
    "attention": ("auto", *IMPLEMENTATIONS),
}
LEVEL_FEATURES = 256  # of the time label
INIT_STD = 0.02  # of the vectors of classes, and of the perceptron of the time label


class DiT(nn.Module):
    """network(x, t, cond) of the shape of x [B, H, W, C], with H and W multiples of the patch size.

    t [B] is the time label, from 0 to 1000. cond holds class labels [B], or a dict with `label`,
    `tokens` and `image`: see `conditions`.

    The parameters are those of the reference, https://github.com/facebookresearch/DiT, with its
    layers stacked under "scanned_blocks".

    size: that of a published network, "S", "B", "L" or "XL": DiT-XL/2 is size "XL", patch_size 2.
    patch_size: pixels of a patch along an axis.
    depth, features, num_heads: layers, width of the tokens, heads; None for those of the size.
    learn_sigma: whether the last layer has the outputs for a variance that the published networks
        have, beside those that are returned.
    num_classes, vocabulary, image_channels, learned_null, numbers: the conditions that it takes,
        see `conditions.Conditions`; without them it has no parameters for them. The published
        networks have num_classes=1000 and learned_null=("label",).
    dtype: of the computation; parameters, normalizations, softmax and output are in float32.
    remat: what the backward pass computes again instead of keeping it; see `networks.scan`.
    attention: the implementation, see `networks.attention`.

    Raises ValueError for an unknown choice and an image that the patches do not divide.
    """

    size: str = "B"
    patch_size: int = 2
    depth: int | None = None
    features: int | None = None
    num_heads: int | None = None
    learn_sigma: bool = False
    num_classes: int | None = None
    vocabulary: int | None = None
    image_channels: int | None = None
    learned_null: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"

    def __post_init__(self) -> None:
        for field, known in CHOICES.items():
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
        )

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Any = None, *, train: bool = False) -> Array:
        depth, features, num_heads = (
            SIZES[self.size][field] if getattr(self, field) is None else getattr(self, field)
            for field in ("depth", "features", "num_heads")
        )
        require_patches(x, self.patch_size, features, num_heads)
        dtype = jnp.dtype(self.dtype)
        # A sum over the layers in the backward pass, hence float32.
        embedding = LevelEmbedding(features, name="level")(t, dtype).astype(jnp.float32)
        told = self.conditions().vector(cond, x.shape[0], features, INIT_STD)
        embedding = embedding if told is None else embedding + told
        beside = self.conditions().image(cond, x)
        seen = x if beside is None else jnp.concatenate([x, beside], axis=-1)

        tokens = patches(seen.astype(dtype), self.patch_size)
        places = positions(x.shape[1] // self.patch_size, x.shape[2] // self.patch_size, features)
        h = (Dense(features, name="patches")(tokens) + places).astype(dtype)
        blocks = scanned(
            Block, depth, remat=self.remat, dtype=dtype, initializing=self.is_initializing()
        )
        h, _ = blocks(num_heads, self.attention, name=f"{SCANNED}_blocks")(h, embedding)
        channels = x.shape[-1] * (1 + self.learn_sigma)
        y = LastLayer(self.patch_size**2 * channels, name="last")(h, embedding)
        return image(y, x.shape[1:3], self.patch_size)[..., : x.shape[-1]].astype(jnp.float32)


class Block(nn.Module):
    """A layer: tokens [B, T, features] and the embedding [B, features] -> (tokens, None)."""

    num_heads: int
    implementation: str

    @nn.compact
    def __call__(self, h: Array, embedding: Array) -> tuple[Array, None]:
        features = h.shape[-1]
        shift1, scale1, gate1, shift2, scale2, gate2 = Modulation(6, name="modulation")(
            embedding, h.dtype
        )
        inner = modulate(h, shift1, scale1)
        query, key, value = Heads(3, self.num_heads, name="qkv")(inner)
        inner = attention(query, key, value, implementation=self.implementation).reshape(h.shape)
        h = add_gated(h, gate1, *Dense(features, name="attended").apart(inner))
        inner = modulate(h, shift2, scale2)
        inner = jax.nn.gelu(Dense(4 * features, name="hidden")(inner))
        return add_gated(h, gate2, *Dense(features, name="output").apart(inner)), None


class Heads(nn.Module):
    """x [B, T, C] -> `parts` affine maps of it, each [B, T, N, C / N] for N heads.

    Without the bias where `use_bias` is False.

    The parameters are those of one Dense of parts C features. Each part is a product by itself, so
    that the compiler can lay it out as attention reads it: slices of one product are copied.
    """

    parts: int
    num_heads: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = default_init()

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        features = x.shape[-1]
        wide = self.parts * features
        kernel = self.param("kernel", self.kernel_init, (features, wide))
        bias = jnp.zeros(wide)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (wide,))
        weights = zip(jnp.split(kernel, self.parts, -1), jnp.split(bias, self.parts), strict=True)
        heads = (*x.shape[:2], self.num_heads, features // self.num_heads)
        return [affine(x, w, b).reshape(heads) for w, b in weights]


class LastLayer(nn.Module):
    """Tokens [B, T, D] and the embedding [B, D] -> [B, T, features]; zero at first."""

    features: int

    @nn.compact
    def __call__(self, h: Array, embedding: Array) -> Array:
        shift, scale = Modulation(2, name="modulation")(embedding, h.dtype)
        return Dense(self.features, nn.initializers.zeros, name="output")(modulate(h, shift, scale))


class Modulation(nn.Module):
    """`parts` arrays [B, 1, D] that are linear in silu(embedding [B, D]); zero at first."""

    parts: int

    @nn.compact
    def __call__(self, embedding: Array, dtype: Any) -> list[Array]:
        linear = Dense(self.parts * embedding.shape[-1], nn.initializers.zeros, name="linear")
        values = linear(nn.silu(embedding).astype(dtype))
        return jnp.split(values[:, None, :], self.parts, axis=-1)


class LevelEmbedding(nn.Module):
    """The time label as a vector, W2 silu(W1 level_features(t)), [B] -> [B, features]."""

    features: int

    @nn.compact
    def __call__(self, t: Array, dtype: Any) -> Array:
        init = nn.initializers.normal(INIT_STD)
        h = Dense(self.features, init, name="first")(level_features(t).astype(dtype))
        return Dense(self.features, init, name="second")(nn.silu(h))


def level_features(t: Array) -> Array:
    """[cos(w_i t), sin(w_i t)] with w_i = 10000^(-i / 128), i = 0, ..., 127, [B] -> [B, 256]."""
    half = LEVEL_FEATURES // 2
    frequencies = np.exp(-np.log(10_000.0) * np.arange(half) / half).astype(np.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def positions(rows: int, columns: int, features: int) -> np.ndarray:
    """The fixed vector of each patch, float32 [rows * columns, features]: `sines` of its place."""
    return sines(np.arange(rows), np.arange(columns), features)


def sines(rows: np.ndarray, columns: np.ndarray, features: int) -> np.ndarray:
    """Vectors of the points of a grid, float32 [len(rows) * len(columns), features], row by row.

    The first half of a vector is `waves` of the column, the second half that of the row.
    """
    row, column = np.meshgrid(rows, columns, indexing="ij")
    halves = [waves(places.ravel(), features // 2) for places in (column, row)]
    return np.concatenate(halves, axis=1)


def waves(places: np.ndarray, features: int) -> np.ndarray:
    """Sines and cosines of n places, float32 [n, features], frequencies 10000^(-2 i / features)."""
    half = features // 2
    angles = places[:, None] * 10_000.0 ** -(np.arange(half) / half)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def patches(x: Array, size: int) -> Array:
    """[B, H, W, C] -> [B, H W / size^2, size^2 C], row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, size * size * channels)


def image(tokens: Array, shape: tuple[int, ...], size: int) -> Array:
    """The inverse of `patches`, for an image of H x W pixels: [B, H, W, C]."""
    batch, (height, width) = tokens.shape[0], shape
    x = tokens.reshape(batch, height // size, width // size, size, size, -1)
    return x.swapaxes(2, 3).reshape(batch, height, width, -1)


def modulate(h: Array, shift: Array, scale: Array, epsilon: float = 1e-6) -> Array:
    """layer_norm(h) (1 + scale) + shift of tokens h [B, T, D], computed in float32."""
    scale, shift = (_each_token(array, h) for array in (scale, shift))
    return (standardized(h, epsilon) * (1 + scale) + shift).astype(h.dtype)


def add_gated(h: Array, gate: Array, change: Array, bias: Array | None = None) -> Array:
    """h + gate (change + bias) for a bias [D], computed in float32.

    The gate times the bias is [B, 1, D], so their gradients need no sum of their own over tokens.
    """
    change = checkpoint_name(change, GATED)
    x, g, y = (array.astype(jnp.float32) for array in (h, gate, change))
    x = x + _each_token(g, h) * y
    return (x if bias is None else x + _each_token(g * bias, h)).astype(h.dtype)


def _each_token(array: Array, h: Array) -> Array:
    """[B, 1, D] -> float32 [B, T, D] for tokens h [B, T, D]."""
    return spread(array[:, 0].astype(jnp.float32), (1,), h.shape[1:2], h.dtype)


def require_patches(x: Array, patch_size: int, features: int, num_heads: int) -> None:
    if any(size % patch_size for size in x.shape[1:3]):
        raise ValueError(
            f"x: patches of {patch_size}x{patch_size} do not divide images of "
            f"{x.shape[1]}x{x.shape[2]}"
        )
    if features % num_heads or features % 4:
        raise ValueError(
            f"features: {features} is not a multiple of num_heads = {num_heads}, or not of 4"
        )
