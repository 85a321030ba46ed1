"""A run small enough to be killed often: a linear denoiser of points in the plane.

As a script it trains in a process of its own and leaves the final state in WORKDIR/final.npz:
    python tiny_run.py WORKDIR TOTAL_STEPS CACHE SECONDS_PER_BATCH [STALLS_AFTER]
"""

import dataclasses
import itertools
import json
import math
import sys
import time
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import training
from sde_diffusion.objectives import of_loss

POINTS = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
SCHEDULE = training.make_schedule("cosine", lr=1e-2, warmup=5, total_steps=1000)


def init_params(key):
    return {"w": jax.random.normal(key, (2, 2)), "b": jnp.zeros(2)}


def loss_fn(params, key, batch):
    noisy = batch["x"] + jax.random.normal(key, batch["x"].shape)
    return jnp.sum((noisy @ params["w"] + params["b"] - batch["x"]) ** 2, axis=-1)


def batches(seconds_per_batch=0.0, points=POINTS, stalls_after=math.inf):
    """Endless shuffled batches of 8 points, one after the other; a stall outlasts any test."""
    asked = itertools.count()

    def gather(indices):
        time.sleep(seconds_per_batch if next(asked) < stalls_after else 600)
        return {"x": points[indices]}

    indices = grain.MapDataset.range(len(points)).shuffle(seed=1).repeat().batch(8)
    one_by_one = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    return iter(indices.map(gather).to_iter_dataset(one_by_one))


RECIPE = training.Recipe(
    init_params,
    of_loss(loss_fn),
    training.make_optimizer("adam", learning_rate=SCHEDULE, clip_norm=1.0),
    ema_rates=(0.9, 0.999),
    learning_rate=SCHEDULE,
)
RUN = training.Run(steps=40, seed=3, steps_per_call=2, checkpoint_every=10, log_every=5)


def run(workdir, steps=40, *, data=None, every=(), progress=False, **changes):
    """A run of `steps` steps; `changes` are fields of RECIPE and of RUN."""
    names = {field.name for field in dataclasses.fields(training.Run)}
    of_run = {name: changes.pop(name) for name in names & changes.keys()}
    return training.train(
        dataclasses.replace(RECIPE, **changes),
        dataclasses.replace(RUN, **{"steps": steps, **of_run}),
        batches() if data is None else data,
        workdir,
        every=every,
        progress=progress,
    )


def same(state, other):
    """Whether two trees have the same leaves, bit for bit."""
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def main(workdir, total_steps, cache, seconds_per_batch, stalls_after=math.inf):
    training.enable_compilation_cache(cache)
    events = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    data = batches(float(seconds_per_batch), stalls_after=float(stalls_after))
    outcome = run(workdir, int(total_steps), data=data)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(outcome.state)]
    np.savez(Path(workdir) / "final.npz", *leaves)
    count = {name: events.count(f"/jax/compilation_cache/{name}") for name in CACHE_EVENTS}
    print(json.dumps({"preempted": outcome.preempted, **count}))


CACHE_EVENTS = ("cache_hits", "cache_misses")

if __name__ == "__main__":
    main(*sys.argv[1:])
