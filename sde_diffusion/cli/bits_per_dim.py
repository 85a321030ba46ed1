"""Bits per dimension of the data under a trained network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sde_diffusion import data, density, noise, samplers
from sde_diffusion.comparison.measure import fine_grid
from sde_diffusion.config import build

STEPS = 20


def bits_per_dim(
    config: ConfigDict, params: Any, source: data.Source, num: int, seed: int
) -> dict[str, float | str]:
    """Bits/dim of `num` data by the probability flow, their mean's standard error, and of what.

    For data in whole numbers only, which are dequantized with uniform noise, so that what comes
    out bounds the bits/dim of the numbers themselves from above. A run has the data that it was
    trained on and no other. RK4 in about STEPS steps, Hutchinson's divergence with one Rademacher
    probe.
    """
    rows = np.random.default_rng(seed).permutation(len(source))[:num]
    records, event = data.take(source, rows), source.features.event
    scaling, process = build.scaling(config, source.features), build.sde(config)
    labels = None
    if build.is_conditional(config) and "label" in records:
        labels = jnp.asarray(records["label"], jnp.int32)
    key_noise, key_probes = jax.random.split(jax.random.key(seed))
    keys = noise.sample_keys(key_noise, len(rows))
    x = data.dequantize(keys, jnp.asarray(records[source.features.event_name]), *event.range)
    made = density.log_likelihood(
        key_probes,
        build.model(config, params),
        scaling.scale(x),
        solver=samplers.RK4(),
        grid=fine_grid(process, STEPS),
        divergence=density.Hutchinson(),
        cond=labels,
    )
    dimension = int(np.prod(event.shape))
    lowest, highest = event.range
    low, high = config.data.range
    bits = density.bits_per_dim(
        made.log_prob, dimension, levels=int(highest - lowest) + 1, scale=high - low
    )
    return {
        "bits_per_dim": float(jnp.mean(bits)),
        "bits_per_dim_standard_error": float(jnp.std(bits, ddof=1) / np.sqrt(len(rows))),
        "bits_per_dim_of": f"{len(rows)} training data, uniformly dequantized",
    }
