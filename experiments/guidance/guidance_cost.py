"""What guidance costs: a guided call beside a call of twice the batch, and what an interval saves.

    python experiments/guidance/guidance_cost.py

Times are the least of ROUNDS, taken in turns, so that other work on the machine meets all alike.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import sde_diffusion as sd
from sde_diffusion.guidance import classifier_free, interval
from sde_diffusion.networks import DiT

ROUNDS, BATCH, SHAPE, NULL = 9, 16, (16, 16, 3), 10
SDE = sd.VP()


def network() -> sd.Model:
    """A DiT of 2 layers of 128 features with random weights."""
    net = DiT(depth=2, features=128, num_heads=4, num_classes=11)
    x, t, labels = jnp.zeros((BATCH, *SHAPE)), jnp.ones(BATCH), jnp.zeros(BATCH, int)
    variables = net.init(jax.random.key(0), x, t, labels)
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [
        leaf + 0.02 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)
    ]
    return sd.from_network(SDE, net.apply, jax.tree.unflatten(tree, drawn))


def least(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The least time of each call, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
    return {name: min(found) for name, found in times.items()}


def main() -> None:
    model = network()
    guided = classifier_free(model, 2.0, null=NULL)
    split = classifier_free(model, 2.0, null=NULL, batched=False)
    limited = interval(guided, model, 0.3, 3.0)
    x = jax.random.normal(jax.random.key(2), (2 * BATCH, *SHAPE))
    t, labels = jnp.float32(0.4), jnp.arange(2 * BATCH) % 10
    call = jax.jit(lambda model, x, cond: model(x, t, cond).eps)
    grid = sd.grids.log_snr(SDE, 10)

    def draw(model: sd.Model) -> Any:
        return sd.sample(
            jax.random.key(0),
            model,
            (BATCH, *SHAPE),
            solver=sd.samplers.DDIM(),
            grid=grid,
            cond=labels[:BATCH],
        )

    one = least(
        {
            "the network, twice the batch": lambda: call(model, x, labels),
            "classifier-free, one call": lambda: call(guided, x[:BATCH], labels[:BATCH]),
            "classifier-free, two calls": lambda: call(split, x[:BATCH], labels[:BATCH]),
        }
    )
    whole = least(
        {
            "classifier-free, 11 calls": lambda: draw(guided).x,
            "on an interval": lambda: draw(limited).x,
            "without guidance": lambda: draw(model).x,
        }
    )
    for times in (one, whole):
        first = next(iter(times.values()))
        for name, seconds in times.items():
            print(f"| {name} | {1e3 * seconds:.1f} ms | {seconds / first:.3f} |")
    print(f"NFE: {[int(draw(each).nfe) for each in (guided, limited, model)]}")


if __name__ == "__main__":
    main()
