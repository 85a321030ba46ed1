"""Transformer layers over the tokens of an image and those of a text, which see each other.

Image and text have weights of their own, and one attention over all tokens:

    q, k, v = [W_text c, W_image x],    found = attention(norm(q), norm(k), v)

Norms of queries and keys are optional, and so are rotary positions, which turn them. Around it, a
layer is DiT's, for x and for c: modulated by an embedding of the time and the text. The names of
the parameters are those of diffusers.

Esser et al. 2024, "Scaling rectified flow transformers for high-resolution image synthesis",
sec. 4.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.networks.attention import attention
from sde_diffusion.networks.dit import Modulation, add_gated, modulate
from sde_diffusion.networks.layers import Array, Dense
from sde_diffusion.networks.normalization import RMSNorm
from sde_diffusion.networks.rotary import Turns, rotate

OWN = ("to_q", "to_k", "to_v", "norm_q", "norm_k")
TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k")


class JointLayer(nn.Module):
    """(x [B, T, D], c [B, S, D]) and the embedding [B, D] -> ((x, c), None).

    qk_norm: whether queries and keys are normalized.
    dual: whether the image tokens have an attention among themselves as well.
    last: whether c is read and not changed, as nothing comes after.
    """

    num_heads: int
    qk_norm: bool
    implementation: str
    dual: bool = False
    last: bool = False

    @nn.compact
    def __call__(
        self, h: tuple[Array, Array], embedding: Array, turns: Turns | None = None
    ) -> tuple[tuple[Array, Array], None]:
        x, c = h
        fields = (self.num_heads, self.qk_norm, self.implementation)
        parts = Modulation(9 if self.dual else 6, name="norm1")(embedding, x.dtype)
        shift1, scale1, gate1, shift2, scale2, gate2, *second = parts
        if self.last:
            c_scale1, c_shift1 = Modulation(2, name="norm1_context")(embedding, c.dtype)
        else:
            c_shift1, c_scale1, c_gate1, c_shift2, c_scale2, c_gate2 = Modulation(
                6, name="norm1_context"
            )(embedding, c.dtype)
        found, c_found = JointAttention(*fields, changes_text=not self.last, name="attn")(
            modulate(x, shift1, scale1), modulate(c, c_shift1, c_scale1), turns
        )
        changed = add_gated(x, gate1, found)
        if self.dual:
            shift, scale, gate = second
            found = SelfAttention(*fields, name="attn2")(modulate(x, shift, scale))
            changed = add_gated(changed, gate, found)
        x = add_gated(changed, gate2, FeedForward(name="ff")(modulate(changed, shift2, scale2)))
        if c_found is not None:
            c = add_gated(c, c_gate1, c_found)
            inner = FeedForward(name="ff_context")(modulate(c, c_shift2, c_scale2))
            c = add_gated(c, c_gate2, inner)
        return (x, c), None


class JointAttention(nn.Module):
    """x [B, T, D] and c [B, S, D] -> what each finds in both; None for c if it is not changed.

    The turns are of the text's tokens and then of the image's.
    """

    num_heads: int
    qk_norm: bool
    implementation: str
    changes_text: bool = True

    @nn.compact
    def __call__(
        self, x: Array, c: Array, turns: Turns | None = None
    ) -> tuple[Array, Array | None]:
        of_text = heads(c, self.num_heads, self.qk_norm, TEXT)
        of_image = heads(x, self.num_heads, self.qk_norm, OWN)
        query, key, value = (
            jnp.concatenate(pair, axis=1) for pair in zip(of_text, of_image, strict=True)
        )
        found = attend(query, key, value, turns, self.implementation)
        length, features = c.shape[1], x.shape[-1]
        x = Dense(features, name="to_out.0")(found[:, length:])
        if not self.changes_text:
            return x, None
        return x, Dense(features, name="to_add_out")(found[:, :length])


class SelfAttention(nn.Module):
    """x [B, T, D] -> [B, T, D]; without the last dense layer where `projects` is False."""

    num_heads: int
    qk_norm: bool
    implementation: str
    projects: bool = True

    @nn.compact
    def __call__(self, x: Array, turns: Turns | None = None) -> Array:
        parts = heads(x, self.num_heads, self.qk_norm, OWN)
        found = attend(*parts, turns, self.implementation)
        return Dense(x.shape[-1], name="to_out.0")(found) if self.projects else found


class FeedForward(nn.Module):
    """W2 gelu(W1 x), [B, T, D] -> [B, T, D], 4 D wide."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        features = x.shape[-1]
        h = jax.nn.gelu(Dense(4 * features, name="net.0.proj")(x))
        return Dense(features, name="net.2")(h)


def heads(
    x: Array, num_heads: int, qk_norm: bool, names: tuple[str, ...]
) -> tuple[Array, Array, Array]:
    """Query, key and value [B, T, N, H] of x [B, T, D], in layers of the module that calls this.

    names: those of the three dense layers, then of the norms of query and key.
    """
    features = x.shape[-1]
    shape = (*x.shape[:2], num_heads, features // num_heads)
    query, key, value = (Dense(features, name=name)(x).reshape(shape) for name in names[:3])
    if qk_norm:
        query, key = RMSNorm(name=names[3])(query), RMSNorm(name=names[4])(key)
    return query, key, value


def attend(
    query: Array, key: Array, value: Array, turns: Turns | None, implementation: str
) -> Array:
    """Attention, of queries and keys turned where there are turns: [B, T, D]."""
    if turns is not None:
        query, key = rotate(query, turns), rotate(key, turns)
    found = attention(query, key, value, implementation=implementation)
    return found.reshape(*found.shape[:2], -1)
