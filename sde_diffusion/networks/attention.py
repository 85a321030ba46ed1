"""Attention: one function for all networks, with an implementation that suits the device.

    attention(q, k, v) = softmax(q k^T / sqrt(H) + bias) v      for each head of H features

The logits are [T, S] for each sample and head. "xla" stores all of them. "chunked" stores those of
some queries of a head at a time, also in the backward pass, so its memory grows only with S, and on
a CPU they stay in the cache. "cudnn" is the fused kernel of a GPU, and "flash" that of a TPU; they
store none. They have no forward-mode derivative, so they cannot be used to compute a likelihood.

Vaswani et al. 2017, sec. 3.2.1; Rabe & Staats 2021, "Self-attention does not need O(n^2) memory".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from sde_diffusion.networks.flash import flash
from sde_diffusion.selection import choose

Array = jax.Array

ATTENTION = "attention"
"""The name of its results, for rematerialization."""

# From 1,024 queries and keys on "auto" takes chunks on a CPU, and the kernel on a TPU.
LONG = 1024**2
# A chunk has at most about this many logits, 4 MiB in float32, so that a core's cache holds them.
LOGITS = 2**20

Choice = tuple[int, int, str]
_chosen: ContextVar[set[Choice] | None] = ContextVar("chosen", default=None)


@contextmanager
def chosen() -> Iterator[set[Choice]]:
    """All (queries, keys, implementation) of the attention that is traced in this context."""
    found: set[Choice] = set()
    token = _chosen.set(found)
    try:
        yield found
    finally:
        _chosen.reset(token)


def attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    implementation: str = "auto",
    *,
    bias: Array | None = None,
) -> Array:
    """The values [B, S, N, H], mixed for each query: [B, T, N, H], in the dtype of the query.

    Args:
        query: [B, T, N, H] for N heads.
        key: [B, S, N, H].
        value: [B, S, N, H].
        mask: bool, broadcast to [B, N, T, S]: which keys a query sees, at least one.
        implementation: a key of IMPLEMENTATIONS, or "auto" for the one that suits the device.
        bias: added to the logits, broadcast to [B, N, T, S]; "cudnn" has none.

    The softmax is computed in float32. Raises ValueError for an unknown implementation.
    """
    if implementation == "auto":
        implementation = suitable(query, key, mask, bias)
    run = choose("attention implementation", implementation, IMPLEMENTATIONS)
    if (found := _chosen.get()) is not None:
        found.add((query.shape[1], key.shape[1], implementation))
    return checkpoint_name(run(query, key, value, mask, bias), ATTENTION)


def suitable(query: Array, key: Array, mask: Array | None, bias: Array | None = None) -> str:
    """The implementation that "auto" stands for on the devices that the program is compiled for."""
    platform = _platform()
    if platform in ("gpu", "cuda") and bias is None and _fits_cudnn(query, key, mask):
        return "cudnn"
    if query.shape[1] * key.shape[1] < LONG:
        return "xla"
    if platform == "cpu":
        return "chunked"
    plain = mask is None and bias is None
    return "flash" if platform == "tpu" and plain and _whole_samples(len(query)) else "xla"


def _platform() -> str:
    """The platform of the ambient mesh, whose devices need not be here, or of this process."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def _whole_samples(num: int) -> bool:
    """Whether it is known that each device has whole samples, as the kernel of a TPU needs.

    The compiler does not split the kernel, and without an ambient mesh nothing says where arrays
    are.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return jax.device_count() == 1 if mesh.empty else num % mesh.size == 0


def _fits_cudnn(query: Array, key: Array, mask: Array | None) -> bool:
    lengths = (query.shape[1], key.shape[1])
    return (
        query.dtype in (jnp.bfloat16, jnp.float16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 128
        and (mask is None or all(length % 2 == 0 for length in lengths))
    )


def _xla(query: Array, key: Array, value: Array, mask: Array | None, bias: Array | None) -> Array:
    return jax.nn.dot_product_attention(
        query, key, value, bias=bias, mask=mask, implementation="xla"
    )


def _cudnn(query: Array, key: Array, value: Array, mask: Array | None, bias: Array | None) -> Array:
    if bias is not None:
        raise ValueError("attention implementation 'cudnn' adds no bias: choose 'auto'")
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")


def _flash(query: Array, key: Array, value: Array, mask: Array | None, bias: Array | None) -> Array:
    if mask is not None or bias is not None:
        raise ValueError("attention implementation 'flash' has no mask and no bias: choose 'auto'")
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and query.shape[0] % mesh.size:
        raise ValueError(
            f"attention implementation 'flash' gives each of {mesh.size} devices whole samples, "
            f"of which there are {query.shape[0]}: choose 'auto'"
        )
    return flash(query, key, value)


def _chunked(
    query: Array, key: Array, value: Array, mask: Array | None, bias: Array | None
) -> Array:
    batch, length, heads, features = query.shape
    chunks = -(-length * key.shape[1] // LOGITS)
    size = -(-length // chunks)  # so that the chunks are equally long, but for some padding

    def by_head(x: Array) -> Array:
        return jnp.moveaxis(x, 2, 1).reshape(batch * heads, -1, features)

    def of_a_head(x: Array | None, number: Array) -> Array | None:
        """The mask or the bias of a sample's head, [chunks or 1, size or 1, S or 1]."""
        if x is None:
            return None
        sample = 0 if x.shape[0] == 1 else number // heads
        own = jnp.asarray(x)[sample, 0 if x.shape[1] == 1 else number % heads]
        return own[None] if own.shape[0] == 1 else _split(own, chunks, size)

    def head(_: None, given: tuple[Array, ...]) -> tuple[None, Array]:
        number, queries, k, v = given
        seen, added = of_a_head(mask, number), of_a_head(bias, number)

        @jax.checkpoint
        def chunk(_: None, at: Array) -> tuple[None, Array]:
            logits = jnp.matmul(queries[at], k.T, preferred_element_type=jnp.float32)
            logits *= features**-0.5
            if added is not None:
                logits += added[at % len(added)]
            if seen is not None:
                logits = jnp.where(seen[at % len(seen)], logits, jnp.finfo(jnp.float32).min)
            weights = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
            mixed = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return None, (mixed / weights.sum(-1, keepdims=True)).astype(query.dtype)

        return None, lax.scan(chunk, None, jnp.arange(chunks))[1]

    queries = jax.vmap(lambda x: _split(x, chunks, size))(by_head(query))
    numbers = jnp.arange(batch * heads)
    _, attended = lax.scan(head, None, (numbers, queries, by_head(key), by_head(value)))
    return jnp.moveaxis(attended.reshape(batch, heads, -1, features)[:, :, :length], 1, 2)


def _split(x: Array, chunks: int, size: int) -> Array:
    """[chunks, size, ...] of x [length, ...]; the padding repeats the last entry."""
    padding = ((0, chunks * size - len(x)), *[(0, 0)] * (x.ndim - 1))
    return jnp.pad(x, padding, mode="edge").reshape(chunks, size, *x.shape[1:])


IMPLEMENTATIONS = {"xla": _xla, "chunked": _chunked, "cudnn": _cudnn, "flash": _flash}
