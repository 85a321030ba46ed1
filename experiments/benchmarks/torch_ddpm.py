"""The reference's DDPM for CIFAR-10 in PyTorch: diffusers' UNet2DModel, with our parameters."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from diffusers import UNet2DModel
from torch import nn


def build() -> UNet2DModel:
    """vp/ddpm/cifar10_continuous, 35.2 M parameters, dropout 0.1; images [B, 3, 32, 32]."""
    net = UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,  # one head
        dropout=0.1,
        norm_eps=1e-6,
        downsample_padding=0,
        freq_shift=1,
        flip_sin_to_cos=False,
    )
    # On the way up the reference attends once a level, diffusers after every residual block.
    attentions = net.up_blocks[2].attentions
    attentions[0] = attentions[1] = nn.Identity()
    return net


@torch.no_grad()
def load(net: UNet2DModel, params: Mapping[str, Any]) -> None:
    """Puts the parameters of our DDPM into that network. Raises ValueError if a number is left."""
    blocks = [*net.down_blocks, net.mid_block, *net.up_blocks]
    copied = _copy(net.time_embedding.linear_1, params["Dense_0"])
    copied += _copy(net.time_embedding.linear_2, params["Dense_1"])
    copied += _copy(net.conv_in, params["Conv_0"])
    copied += _copy(net.conv_norm_out, params["GroupNorm_0"])
    copied += _copy(net.conv_out, params["Conv_1"])
    for i, block in enumerate(_children(blocks, "resnets")):
        ours = params[f"ResnetBlockDDPM_{i}"]
        copied += _copy(block.norm1, ours["GroupNorm_0"])
        copied += _copy(block.conv1, ours["Conv_0"])
        copied += _copy(block.time_emb_proj, ours["Dense_0"])
        copied += _copy(block.norm2, ours["GroupNorm_1"])
        copied += _copy(block.conv2, ours["Conv_1"])
        if block.conv_shortcut is not None:
            copied += _copy(block.conv_shortcut, ours["NIN_0"])
    for i, block in enumerate(_children(blocks, "attentions")):
        ours = params[f"AttnBlock_{i}"]
        copied += _copy(block.group_norm, ours["GroupNorm_0"])
        for j, linear in enumerate((block.to_q, block.to_k, block.to_v, block.to_out[0])):
            copied += _copy(linear, ours[f"NIN_{j}"])
    for i, block in enumerate(_children(blocks, "downsamplers")):
        copied += _copy(block.conv, params[f"Downsample_{i}"]["Conv_0"])
    for i, block in enumerate(_children(blocks, "upsamplers")):
        copied += _copy(block.conv, params[f"Upsample_{i}"]["Conv_0"])
    sizes = {
        "ours": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "PyTorch's": sum(parameter.numel() for parameter in net.parameters()),
        "copied": copied,
    }
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the networks differ in their numbers of parameters: {sizes}")


def _children(blocks: Iterable[nn.Module], name: str) -> list[nn.Module]:
    """What the blocks hold under that name, in the order in which the network calls it."""
    lists = (getattr(block, name, None) or () for block in blocks)
    return [child for each in lists for child in each if not isinstance(child, nn.Identity)]


def _copy(module: nn.Module, ours: Mapping[str, Any]) -> int:
    """One layer's weight (ours: kernel, W or scale) and bias; the number of parameters copied."""
    count = 0
    for name, leaf in ours.items():
        theirs = module.bias if name in ("bias", "b") else module.weight
        # Ours is [..., in, out], PyTorch's [out, in, ...]; a 1x1 convolution is a matrix here.
        value = np.array(leaf)
        value = np.moveaxis(value, (-1, -2), (0, 1)) if value.ndim > 1 else value
        theirs.copy_(torch.from_numpy(value.reshape(theirs.shape)))
        count += value.size
    return count
