"""The cycles of NCSN++'s blocks on a TPU, compiled ahead of time.

    python experiments/benchmarks/tpu_blocks.py [--images 8]

Each block is compiled with its gradients in bfloat16 for one v5e chip. The cycles are the
compiler's estimates; nothing runs. Attention stands beside a variant that computes query, key and
value in one product and splits the result. Needs the extra `tpu`.
"""

import argparse
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion import planning
from sde_diffusion.networks.blocks import AttnBlock, ResnetBlock
from sde_diffusion.networks.layers import NIN, add_skip
from sde_diffusion.networks.normalization import group_norm
from sde_diffusion.networks.resampling import downsample, upsample

FIR = (1, 3, 3, 1)
GROUP = 4  # channels of the smallest group


class FusedAttnBlock(nn.Module):
    """AttnBlock with one product for query, key and value."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        h = group_norm(x, GROUP).reshape(batch, height * width, 1, channels)
        query, key, value = jnp.split(NIN(3 * channels)(h), 3, axis=-1)
        h = jax.nn.dot_product_attention(query, key, value)
        return add_skip(x, NIN(channels)(h).reshape(x.shape), True)


class Residual(nn.Module):
    """A residual block with the embedding of a noise level and dropout."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        block = ResnetBlock(self.features, nn.swish, 0.1, True, GROUP, skip_rescale=True)
        return block(x, jnp.ones((len(x), 512), x.dtype))


class Filter(nn.Module):
    """A convolution, followed by a filter unless it is None."""

    filter: Callable[[jax.Array], jax.Array] | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.Conv(x.shape[-1], (3, 3), dtype=x.dtype)(x)
        return h if self.filter is None else self.filter(h)


PROGRAMS: dict[str, tuple[nn.Module, tuple[int, int]]] = {  # with pixels a side and channels
    "residual block, 128 channels at 32x32": (Residual(128), (32, 128)),
    "residual block, 256 channels at 16x16": (Residual(256), (16, 256)),
    "convolution, 128 channels at 32x32": (Filter(None), (32, 128)),
    "the same, and FIR downsampling": (Filter(partial(downsample, kernel=FIR)), (32, 128)),
    "convolution, 256 channels at 16x16": (Filter(None), (16, 256)),
    "the same, and FIR upsampling": (Filter(partial(upsample, kernel=FIR)), (16, 256)),
    "attention, 256 channels at 16x16": (AttnBlock(GROUP, skip_rescale=True), (16, 256)),
    "the same, in one product": (FusedAttnBlock(), (16, 256)),
}


def cycles(module: nn.Module, images: int, side: int, channels: int) -> int | None:
    """The compiler's cycles of the output and of the gradients in the parameters and the input."""
    device = planning.named("v5e:1x1").devices[0]
    placed = jax.sharding.SingleDeviceSharding(device)

    def on_chip(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed), tree
        )

    x = jax.ShapeDtypeStruct((images, side, side, channels), jnp.bfloat16)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = jax.eval_shape(module.init, keys, x)

    def loss(params: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        y = module.apply(params, x, rngs={"dropout": key})
        return jnp.sum(jnp.square(y.astype(jnp.float32)))

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    key = jax.eval_shape(lambda: jax.random.key(0))
    lowered = step.lower(on_chip(params), on_chip(x), on_chip(key))
    return planning.compile_program(lowered, 1).cycles


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--images", type=int, default=8, help="on the chip (8)")
    args = parser.parse_args(argv)
    try:
        planning.named("v5e:1x1")
    except ImportError as error:
        print(f"tpu_blocks: error: {error}", file=sys.stderr)
        return 2
    libtpu = importlib.metadata.version("libtpu")
    print(f"cycles on a v5e chip, {args.images} images, as libtpu {libtpu} estimates them")
    for name, (module, (side, channels)) in PROGRAMS.items():
        print(f"{name:40} {cycles(module, args.images, side, channels):12,}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
