"""Attention on TPUs that stores no logits, by the flash kernel among JAX's Pallas operations.

The compiler does not split such a kernel over devices, so each device runs it on its own samples.

Dao et al. 2022, "FlashAttention: fast and memory-efficient exact attention with IO-awareness".
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

Array = jax.Array

# Queries and keys come in blocks, of the largest of these sizes that divides their number.
BLOCKS = (512, 384, 256, 128)


def flash(query: Array, key: Array, value: Array) -> Array:
    """softmax(q k^T / sqrt(H)) v for queries [B, T, N, H] and keys and values [B, S, N, H].

    Over the devices of the ambient mesh, which divide B.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _on_one(query, key, value)
    samples = PartitionSpec(mesh.axis_names)
    split = jax.shard_map(
        _on_one, mesh=mesh, in_specs=(samples,) * 3, out_specs=samples, check_vma=False
    )
    return split(query, key, value)


def _on_one(query: Array, key: Array, value: Array) -> Array:
    from jax.experimental.pallas.ops.tpu.flash_attention import SegmentIds, flash_attention

    length, features = query.shape[1], query.shape[-1]
    q, k, v = (_heads_first(array) for array in (query, key, value))
    segments = None
    if k.shape[2] > key.shape[1]:
        # Keys are seen by the queries of their own segment; all queries are in that of real keys.
        real = (jnp.arange(k.shape[2]) < key.shape[1]).astype(jnp.int32)
        seen = jnp.broadcast_to(real, (len(k), k.shape[2]))
        segments = SegmentIds(jnp.ones((len(q), q.shape[2]), jnp.int32), seen)
    mixed = flash_attention(
        q,
        k,
        v,
        segment_ids=segments,
        sm_scale=features**-0.5,
        block_sizes=_blocks(q.shape[2], k.shape[2]),
    )
    return jnp.moveaxis(mixed, 1, 2)[:, :length].astype(query.dtype)


def _heads_first(array: Array) -> Array:
    """[B, N, T, H], with T filled up by zeros to a multiple of the smallest block."""
    short = -array.shape[1] % BLOCKS[-1]
    return jnp.moveaxis(jnp.pad(array, ((0, 0), (0, short), (0, 0), (0, 0))), 2, 1)


def _blocks(queries: int, keys: int) -> Any:
    from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes

    q, k = (next(size for size in BLOCKS if num % size == 0) for num in (queries, keys))
    forward = {"block_q": q, "block_k_major": k, "block_k": k, "block_b": 1}
    of_keys = {"block_q_major_dkv": q, "block_q_dkv": q, "block_k_major_dkv": k, "block_k_dkv": k}
    return BlockSizes(**forward, **of_keys, block_k_major_dq=k, block_k_dq=k, block_q_dq=q)
