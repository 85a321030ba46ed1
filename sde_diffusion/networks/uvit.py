"""U-ViT, a transformer with the long skip connections of a U-Net.

Everything is a token: the time, the condition, the words of a text, and the patches of the image.
The layers of the first half, before a middle one, hand what they give to those of the second half,
the last to the first,

    h <- skip_linear([h, skip]),   h <- h + attention(norm1(h)),   h <- h + mlp(norm2(h)),

where the first half has no skip_linear. The places of all tokens are learned, so a network is for
images of one size. The names of the parameters are those of https://github.com/baofff/U-ViT, but
for the condition's.

Bao et al. 2023, "All are worth words: a ViT backbone for diffusion models", secs. 3.1 and 3.2.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.layerwise import SCANNED
from sde_diffusion.networks.attention import attention
from sde_diffusion.networks.conditions import Conditions, require_conditions
from sde_diffusion.networks.dit import CHOICES, INIT_STD, Heads, image, require_patches
from sde_diffusion.networks.layers import Array, Conv, Dense
from sde_diffusion.networks.normalization import LayerNorm
from sde_diffusion.networks.residual import time_features
from sde_diffusion.networks.residual import tokens as as_tokens
from sde_diffusion.networks.scan import scanned
from sde_diffusion.selection import require_known

SIZES: dict[str, dict[str, int]] = {
    "S": {"depth": 12, "features": 512, "num_heads": 8},
    "S_deep": {"depth": 16, "features": 512, "num_heads": 8},
    "M": {"depth": 16, "features": 768, "num_heads": 12},
    "L": {"depth": 20, "features": 1024, "num_heads": 16},
    "H": {"depth": 28, "features": 1152, "num_heads": 16},
}
INIT = nn.initializers.truncated_normal(INIT_STD)


class UViT(nn.Module):
    """network(x, t, cond) of the shape of x [B, H, W, C], with H and W multiples of the patch size.

    t [B] is the time label, from 0 to 1000. cond holds class labels [B], or a dict with `label`,
    `tokens`, `image` and numbers, see `conditions`, which are one token; and with `text`
    [B, S, text_features], the states of a text encoder, each of which is a token.

    size: that of a published network, "S", "S_deep", "M", "L" or "H": U-ViT-H/2 is size "H",
        patch_size 2. The paper counts the middle layer too: 13, 17, 17, 21 and 29 layers.
    patch_size: pixels of a patch along an axis.
    depth, features, num_heads: layers without the middle one, an even number; width of the tokens;
        heads. None for those of the size.
    last_conv: whether a 3x3 convolution of the image comes last, as in the networks of pixels.
    text_features: of the states of a text; None for a network that reads none, and then the network
        needs `text`.
    num_classes, vocabulary, image_channels, learned_null, numbers: see `conditions.Conditions`. The
        published networks have num_classes=1000 and learned_null=("label",).
    dtype: of the computation; parameters, normalizations, softmax and output are in float32.
    remat: what the backward pass computes again instead of keeping it; see `networks.scan`.
    attention: the implementation, see `networks.attention`.

    Raises ValueError for an unknown choice, an odd depth, an image that the patches do not divide,
    and another number of tokens than the network was made for.
    """

    size: str = "S"
    patch_size: int = 2
    depth: int | None = None
    features: int | None = None
    num_heads: int | None = None
    last_conv: bool = True
    text_features: int | None = None
    num_classes: int | None = None
    vocabulary: int | None = None
    image_channels: int | None = None
    learned_null: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"

    def __post_init__(self) -> None:
        for field, known in (CHOICES | {"size": tuple(SIZES)}).items():
            require_known(field, getattr(self, field), known)
        if self.depth is not None and (self.depth < 2 or self.depth % 2):
            raise ValueError(f"depth must be an even number from 2 on, got {self.depth}")
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
        size, dtype = self.patch_size, jnp.dtype(self.dtype)
        require_patches(x, size, features, num_heads)
        h, extras = self._tokens(x, t, cond, features, dtype)

        half = depth // 2
        shared: dict[str, Any] = {
            "remat": self.remat,
            "dtype": dtype,
            "initializing": self.is_initializing(),
        }
        fields = (num_heads, self.attention)
        first = scanned(Layer, half, **shared)
        h, skips = first(*fields, keeps=True, name=f"{SCANNED}_in_blocks")(h)
        h, _ = Layer(*fields, name="mid_block")(h)
        second = scanned(Layer, half, each=True, **shared)
        h, _ = second(*fields, name=f"{SCANNED}_out_blocks")(h, skips[::-1])

        h = LayerNorm(name="norm")(h)[:, extras:]
        y = image(Dense(size**2 * x.shape[-1], INIT, name="decoder_pred")(h), x.shape[1:3], size)
        if self.last_conv:
            y = Conv(x.shape[-1], name="final_layer")(y)
        return y.astype(jnp.float32)

    def _tokens(
        self, x: Array, t: Array, cond: Any, features: int, dtype: Any
    ) -> tuple[Array, int]:
        """All tokens [B, T, features] with their places, and how many are not the image's."""
        parts = [time_features(t, features, cosine_first=True, frequency_shift=0)[:, None]]
        if self.text_features is not None:
            require_conditions(cond, "text")
            text = Dense(features, INIT, name="context_embed")(cond["text"].astype(dtype))
            parts.append(text)
        if isinstance(cond, Mapping):
            cond = {name: value for name, value in cond.items() if name != "text"}
        told = self.conditions().vector(cond, len(x), features, INIT_STD)
        if told is not None:
            parts.insert(0, told[:, None])
        beside = self.conditions().image(cond, x)
        seen = x if beside is None else jnp.concatenate([x, beside], axis=-1)
        cut = Conv(features, self.patch_size, self.patch_size, "VALID", name="patch_embed.proj")
        extras = sum(part.shape[1] for part in parts)
        parts.append(as_tokens(cut(seen.astype(dtype))))
        h = jnp.concatenate([part.astype(dtype) for part in parts], axis=1)
        if self.has_variable("params", "pos_embed"):
            made: Any = self.get_variable("params", "pos_embed")
            if made.shape[1] != h.shape[1]:
                raise ValueError(
                    f"x: {h.shape[1]} tokens of an image of {x.shape[1]}x{x.shape[2]} and its "
                    f"condition, for a network that was made for {made.shape[1]}"
                )
        places = self.param("pos_embed", INIT, (1, h.shape[1], features))
        return (h + places).astype(dtype), extras


class Layer(nn.Module):
    """Tokens [B, T, D], and those of the skip connection where there is one -> (tokens, made).

    keeps: whether what is made is the tokens, for a skip connection; otherwise it is None.
    """

    num_heads: int
    implementation: str
    keeps: bool = False

    @nn.compact
    def __call__(self, h: Array, skip: Array | None = None) -> tuple[Array, Array | None]:
        features = h.shape[-1]
        if skip is not None:
            h = Dense(features, INIT, name="skip_linear")(jnp.concatenate([h, skip], axis=-1))
        split = Heads(3, self.num_heads, use_bias=False, kernel_init=INIT, name="attn.qkv")
        query, key, value = split(LayerNorm(name="norm1")(h))
        found = attention(query, key, value, implementation=self.implementation)
        h = h + Dense(features, INIT, name="attn.proj")(found.reshape(h.shape))
        inner = Dense(4 * features, INIT, name="mlp.fc1")(LayerNorm(name="norm2")(h))
        inner = jax.nn.gelu(inner, approximate=False)
        h = h + Dense(features, INIT, name="mlp.fc2")(inner)
        return h, h if self.keeps else None
