"""The network of configs/emoji.py in PyTorch, with our parameters: `networks.text_dit`."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sde_diffusion.networks.dit import positions, waves
from sde_diffusion.networks.text_dit import TextDiT

LEVEL_FEATURES = 256


class Modulation(nn.Module):
    """`parts` arrays [B, 1, D] of the embedding [B, D]."""

    def __init__(self, parts: int, width: int) -> None:
        super().__init__()
        self.parts, self.linear = parts, nn.Linear(width, parts * width)

    def forward(self, embedding):
        return self.linear(F.silu(embedding))[:, None].chunk(self.parts, dim=-1)


class RMSNorm(nn.RMSNorm):
    """In the dtype of the input, for which PyTorch has a kernel of its own."""

    def forward(self, x):
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class TextLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden, self.output = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h, mask):
        query, key, value = split(self.qkv(self.norm1(h)), 3, self.heads)
        h = h + self.attended(joined(F.scaled_dot_product_attention(query, key, value, mask)))
        inner = F.gelu(self.hidden(self.norm2(h)), approximate="tanh")
        return h + self.output(inner)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = Modulation(6, width)
        self.qkv, self.text_kv = nn.Linear(width, 3 * width), nn.Linear(width, 2 * width)
        self.norm_query = RMSNorm(width // heads, eps=1e-6)
        self.norm_key = RMSNorm(width // heads, eps=1e-6)
        self.attended = nn.Linear(width, width)
        self.hidden, self.output = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h, embedding, text, mask):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding)
        query, key, value = split(self.qkv(modulate(h, shift1, scale1)), 3, self.heads)
        text_key, text_value = split(self.text_kv(text), 2, self.heads)
        key = torch.cat([self.norm_key(key), self.norm_key(text_key)], dim=2)
        value = torch.cat([value, text_value], dim=2)
        query = self.norm_query(query)
        found = F.scaled_dot_product_attention(query, key, value, mask)
        h = h + gate1 * self.attended(joined(found))
        inner = F.gelu(self.hidden(modulate(h, shift2, scale2)), approximate="tanh")
        return h + gate2 * self.output(inner)


class Last(nn.Module):
    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.modulation, self.output = Modulation(2, width), nn.Linear(width, features)

    def forward(self, h, embedding):
        return self.output(modulate(h, *self.modulation(embedding)))


class TorchTextDiT(nn.Module):
    """network(x [B, H, W, C], t [B], tokens [B, L]), with the fields of one of ours."""

    def __init__(self, ours: TextDiT, shape: tuple[int, int, int], length: int) -> None:
        super().__init__()
        wide, fine, size = ours.features, ours.fine_features, ours.patch_size
        heads = (ours.num_heads, ours.num_heads * fine // wide)
        pixels = (size // 2) ** 2 * shape[2]
        self.fine_size, self.grid = size // 2, (2 * shape[0] // size, 2 * shape[1] // size)
        self.label_scale, self.word_rate = ours.label_scale, ours.word_rate
        self.words = nn.Embedding(ours.vocabulary, wide)
        self.scanned_text = _layers(TextLayer, ours.text_depth, wide, heads[0])
        self.text_norm = nn.LayerNorm(wide)
        self.level = nn.ModuleDict(
            {"first": nn.Linear(LEVEL_FEATURES, wide), "second": nn.Linear(wide, wide)}
        )
        self.pooled = nn.Linear(wide, wide)
        self.fine_embedding, self.fine_words = nn.Linear(wide, fine), nn.Linear(wide, fine)
        self.fine_patches = nn.Linear(pixels, fine)
        self.scanned_fine_before = _layers(Block, ours.fine_depth, fine, heads[1])
        self.merge, self.split = nn.Linear(4 * fine, wide), nn.Linear(wide, 4 * fine)
        self.scanned_blocks = _layers(Block, ours.depth, wide, heads[0])
        self.scanned_fine_after = _layers(Block, ours.fine_depth, fine, heads[1])
        self.last = Last(fine, pixels)
        for name, array in {
            "token_places": waves(np.arange(length), wide),
            "fine_places": positions(*self.grid, fine),
            "places": positions(*(each // 2 for each in self.grid), wide),
            "frequencies": np.exp(-np.log(10_000.0) * np.arange(128) / 128).astype(np.float32),
        }.items():
            self.register_buffer(name, torch.tensor(array), persistent=False)

    def forward(self, x, t, tokens):
        seen = tokens != 0
        text = self.word_rate * self.words(tokens) + self.token_places
        mask = (seen | ~seen.any(dim=1, keepdim=True))[:, None, None]
        for layer in self.scanned_text:
            text = layer(text, mask)
        text = self.text_norm(text)
        weight = seen[..., None].float()
        mean = (text * weight).sum(1) / weight.sum(1).clamp(min=1)
        angles = self.label_scale * t[:, None] * self.frequencies
        level = self.level["first"](torch.cat([angles.cos(), angles.sin()], dim=-1))
        embedding = self.level["second"](F.silu(level)) + self.pooled(mean)

        told, words = self.fine_embedding(embedding), self.fine_words(text)
        fine = self.fine_patches(patches(x, self.fine_size)) + self.fine_places
        fine_mask = beside(seen, fine)
        for layer in self.scanned_fine_before:
            fine = layer(fine, told, words, fine_mask)
        h = self.merge(patches(fine.unflatten(1, self.grid), 2)) + self.places
        mask = beside(seen, h)
        for layer in self.scanned_blocks:
            h = layer(h, embedding, text, mask)
        fine = fine + image(self.split(h), self.grid, 2).reshape(fine.shape)
        for layer in self.scanned_fine_after:
            fine = layer(fine, told, words, fine_mask)
        return image(self.last(fine, told), x.shape[1:3], self.fine_size).float()


def modulate(h, shift, scale):
    return F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift


def split(x, parts: int, heads: int):
    """[B, T, parts N C] -> [B, N, T, C] each."""
    return [each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in x.chunk(parts, dim=-1)]


def joined(x):
    """[B, N, T, C] -> [B, T, N C]."""
    return x.transpose(1, 2).flatten(2)


def beside(seen, h):
    """The mask [B, 1, 1, T + L] of the tokens h [B, T, D] and of those of a text, [B, L]."""
    return torch.cat([seen.new_ones(h.shape[:2]), seen], dim=1)[:, None, None]


def patches(x, size: int):
    """[B, H, W, C] -> [B, H W / size^2, size^2 C], row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(2, 3).reshape(batch, -1, size * size * channels)


def image(tokens, shape, size: int):
    """The inverse of `patches`."""
    x = tokens.reshape(len(tokens), shape[0] // size, shape[1] // size, size, size, -1)
    return x.transpose(2, 3).reshape(len(tokens), *shape, -1)


@torch.no_grad()
def load(network: TorchTextDiT, params: Mapping[str, Any]) -> None:
    """Puts our parameters into that network. Raises RuntimeError unless all names match."""
    leaves = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
    state = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *modules, name = (key.key for key in path)
        stacked = np.asarray(leaf) if modules[0].startswith("scanned_") else np.asarray(leaf)[None]
        for i, array in enumerate(stacked):
            layer = [modules[0], str(i)] if modules[0].startswith("scanned_") else modules[:1]
            value = array.T if name == "kernel" else array
            state[".".join([*layer, *modules[1:], leaves[name]])] = torch.tensor(value.copy())
    network.load_state_dict(state)


def _layers(kind: type[nn.Module], depth: int, width: int, heads: int) -> nn.ModuleList:
    return nn.ModuleList(kind(width, heads) for _ in range(depth))
