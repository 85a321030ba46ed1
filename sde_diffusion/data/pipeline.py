"""From a source to batches on the host: shuffling, picking rows, and a share for each host.

What changes the data itself (flips, dequantization, scaling) is in `transforms` and runs inside
the compiled step, so it depends on the step and the sample alone.
"""

import functools

import grain
import numpy as np

from sde_diffusion.data.source import Batch, Source, take


def batches(
    source: Source, batch_size: int, seed: int, *, host: int = 0, hosts: int = 1
) -> grain.DatasetIterator[Batch]:
    """Batches without end; epoch e takes the rows in an order drawn from (seed, e).

    All hosts agree on the order. Of the global batch i, rows [i B, (i + 1) B) of the epochs one
    after another, host h holds the h-th of `hosts` equal parts; so a run that goes on with
    another number of hosts sees the same data.

    Args:
        source: N rows.
        batch_size: B, over all hosts.
        seed: at least 0.
        host, hosts: this host's index, and how many there are.

    Returns:
        An iterator over dicts with an array [B / hosts, ...] for each of the source's features,
        such as {"image": [B / hosts, H, W, C], "label": [B / hosts]}, and the numbers of the
        records in the source as "index" [B / hosts]. It reads ahead in a thread. `get_state()`
        is a small dict of plain numbers; after `set_state` with it, the next batch is the one that
        would have been next.

    Raises:
        ValueError: fewer rows than B, B not a multiple of `hosts`, or a number out of range.
    """
    _check(batch_size, host, hosts)
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    if batch_size % hosts:
        raise ValueError(f"batch_size {batch_size} is not a multiple of the {hosts} hosts")
    num, share = len(source), batch_size // hosts
    if num < batch_size:
        raise ValueError(f"{source.name}: {num} samples, fewer than a batch of {batch_size}")

    # An order for a whole epoch, not grain's shuffle of one index at a time: that takes 1 to 3 ms
    # of a core for a batch of 128, as much as a training step of a small network; this, 0.1 ms.
    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(num)

    def rows(step: int) -> Batch:
        start = step * batch_size + host * share
        epoch, row = np.divmod(np.arange(start, start + share), num)
        # B <= N: a share spans at most two epochs.
        picked = np.where(epoch == epoch[0], order(epoch[0])[row], order(epoch[-1])[row])
        return {**take(source, picked), "index": picked}

    return iter(_threaded(grain.MapDataset.range(2**40).map(rows)))


def one_pass(
    source: Source, batch_size: int, *, host: int = 0, hosts: int = 1
) -> grain.DatasetIterator[Batch]:
    """Every row once, in order; the last batch holds what is left and may be smaller.

    Args:
        source: N rows, of which host h takes h, h + hosts, h + 2 hosts, ...
        batch_size: rows of a batch on this host.
        host, hosts: this host's index, and how many there are.

    Raises:
        ValueError: a number is out of range.
    """
    _check(batch_size, host, hosts)
    mine = np.arange(host, len(source), hosts)
    starts = grain.MapDataset.range(0, len(mine), batch_size)
    return iter(_threaded(starts.map(lambda i: take(source, mine[i : i + batch_size]))))


def _check(batch_size: int, host: int, hosts: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= host < hosts:
        raise ValueError(f"host must be in [0, hosts), got host {host} of {hosts}")


def _threaded(dataset: grain.MapDataset[Batch]) -> grain.IterDataset[Batch]:
    return dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))
