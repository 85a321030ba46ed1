"""What a step of MeanFlow or sCM costs beside a denoising step of the same network.

    python experiments/few_steps/cost.py

Times are the least of several runs, in turn, so that a load on the machine meets all of them alike.
The operations are those that the compiler counts in the compiled step.
"""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import sde_diffusion as sd
from sde_diffusion import networks, objectives
from sde_diffusion.objectives import time_density

BATCH, ROUNDS = 128, 12


def main() -> None:
    sde = sd.EDM(t_min=0.02, t_max=80.0)
    network = networks.MLP(features=512, num_blocks=4, num_classes=10, numbers=(networks.TOWARDS,))
    x0 = jax.random.normal(jax.random.key(0), (BATCH, 8, 8, 1))
    labels = jnp.arange(BATCH) % 10
    cond = {"label": labels, networks.TOWARDS: jnp.zeros(BATCH)}
    params = network.init(jax.random.key(1), x0, jnp.zeros(BATCH), cond)["params"]
    apply = networks.two_times(network.apply)

    def model(params: Any) -> sd.Model:
        return sd.from_flow_map_network(sde, apply, {"params": params}, "edm")

    times = time_density.log_normal(-1.0, 1.4)
    losses = {
        "denoising": partial(objectives.denoising_loss, times=times),
        "MeanFlow": partial(objectives.meanflow_loss, times=times),
        "improved MeanFlow": partial(objectives.meanflow_loss, times=times, improved=True),
        "sCM": partial(objectives.scm_loss, progress=1.0),
        "consistency training": objectives.consistency_loss,
        "shortcut": partial(objectives.shortcut_loss, grid=partial(sd.grids.karras)),
    }
    steps = {}
    for name, loss in losses.items():

        def mean(params: Any, key: Any, loss: Any = loss) -> Any:
            return jnp.mean(loss(key, model(params), x0, cond=labels))

        steps[name] = jax.jit(jax.value_and_grad(mean)).lower(params, jax.random.key(0)).compile()
    least = dict.fromkeys(steps, float("inf"))
    for turn in range(ROUNDS):
        for name, step in steps.items():
            clock = time.process_time()
            jax.block_until_ready(step(params, jax.random.key(turn)))
            least[name] = min(least[name], time.process_time() - clock)
    print("| loss | processor time of a step | of denoising | operations, of denoising |")
    print("|---|---|---|---|")
    flops = {name: step.cost_analysis()["flops"] for name, step in steps.items()}
    for name, seconds in least.items():
        print(
            f"| {name} | {1e3 * seconds:.1f} ms | {seconds / least['denoising']:.2f} "
            f"| {flops[name] / flops['denoising']:.2f} |"
        )


if __name__ == "__main__":
    main()
