"""A run that is small, but whose parameters are split over `fsdp`; also as a process of its own:

python problem.py WORKDIR STEPS CACHE COORDINATOR NUM_PROCESSES PROCESS_ID FSDP [SECONDS [FAIL]]

Each batch takes SECONDS, and with FAIL (STEP:PROCESS) the data of that process fail there, or, with
"end" for the step, that process when the others are done. The first process leaves the final state
in WORKDIR/final.npz.
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sde_diffusion import data, distributed, training
from sde_diffusion.objectives import of_loss

POINTS = np.random.default_rng(0).normal(size=(64, 24)).astype(np.float32)
BATCH_SIZE, WIDTH = 16, 512


def init_params(key):
    a, b = jax.random.split(key)
    return {
        "inner": jax.random.normal(a, (24, WIDTH)) / 5,
        "bias": jnp.zeros(WIDTH),
        "outer": jax.random.normal(b, (WIDTH, 24)) / 20,
    }


def loss_fn(params, key, batch):
    noisy = batch["x"] + jax.random.normal(key, batch["x"].shape)
    hidden = jax.nn.silu(noisy @ params["inner"] + params["bias"])
    return jnp.sum((hidden @ params["outer"] - batch["x"]) ** 2, axis=-1)


class SlowBatches:
    """This process's share of the batches; each takes `seconds`, and number `fails_at` fails."""

    def __init__(self, seconds=0.0, fails_at=None):
        share = {"host": jax.process_index(), "hosts": jax.process_count()}
        source = data.from_arrays("points", {"x": POINTS}, low=-1, high=1)
        self.inner = data.batches(source, BATCH_SIZE, 0, **share)
        self.seconds, self.fails_at, self.drawn = seconds, fails_at, 0

    def __iter__(self):
        return self

    def __next__(self):
        time.sleep(self.seconds)
        self.drawn += 1
        if self.drawn == self.fails_at:
            raise ValueError("image 7 is torn")
        return next(self.inner)

    def get_state(self):
        return self.inner.get_state()

    def set_state(self, position):
        self.inner.set_state(position)


RECIPE = training.Recipe(
    init_params,
    of_loss(loss_fn),
    optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
    (0.9, 0.99),
)


def run(workdir, steps, mesh, data=None):
    options = training.Run(steps, seed=3, checkpoint_every=4, log_every=1)
    data = SlowBatches() if data is None else data
    return training.train(RECIPE, options, data, workdir, mesh=mesh, progress=False)


def main(workdir, steps, cache, coordinator, num, process, fsdp, seconds="0", fail=""):
    training.enable_compilation_cache(cache)
    with distributed.joined(
        coordinator, int(num), int(process), join_timeout=60, heartbeat_timeout=10
    ):
        step, _, who = fail.partition(":")
        mine = step if who == process else ""
        batches = SlowBatches(float(seconds), int(mine) if mine.isdigit() else None)
        outcome = run(workdir, int(steps), distributed.make_mesh(fsdp=int(fsdp)), data=batches)
        state = [distributed.to_every_process(leaf) for leaf in jax.tree.leaves(outcome.state)]
        if distributed.is_first_process():
            np.savez(Path(workdir) / "final.npz", *state)
        print("preempted" if outcome.preempted else "done", int(outcome.state.step))
        if mine == "end":
            time.sleep(2.0)
            sys.exit("no room for the picture")


if __name__ == "__main__":
    main(*sys.argv[1:])
