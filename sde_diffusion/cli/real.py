"""Real data that samples are compared with, in memory."""

import numpy as np
from ml_collections import ConfigDict

from sde_diffusion import data
from sde_diffusion.cli import codec
from sde_diffusion.config import build, codecs
from sde_diffusion.config.codecs import FrozenCodec

# Numbers of real data that samples are compared with: 1 GiB of float64.
MOST_NUMBERS = 2**27


def real_rows(source: data.Source, most: int, seed: int) -> np.ndarray:
    """At most `most` records of a source, and no more than fit in memory, drawn at random: [N]."""
    if most < 1:
        raise ValueError(f"config.eval.data must be at least 1, got {most}")
    size = int(np.prod(source.features.event.shape))
    num, rows = min(len(source), most, max(1, MOST_NUMBERS // size)), np.arange(len(source))
    if num < len(rows):
        rows = np.sort(np.random.default_rng(seed).permutation(len(rows))[:num])
    return rows


def images(
    config: ConfigDict, real: data.Batch, features: data.Features, coder: FrozenCodec | None
) -> np.ndarray:
    """The events of records, which samples are compared with; the means of latents are decoded."""
    events = real[features.event_name]
    if coder is None or not codecs.is_latent(features):
        return events
    mesh, size = build.mesh(config), config.sampling.batch_size
    parts = codec.batches_of(events.astype(np.float32), size)
    return np.concatenate(
        [codec.as_stored(codec.decode(coder, mesh, part), coder.image) for part in parts]
    )
