"""A student of a guided teacher: one evaluation against two for every step of guidance.

    python experiments/few_steps/guided.py

Three classes of two Gaussians each in the plane, whose guided score is exact, and a student that is
told the class and the weight, which was drawn from 1 to 4. For each weight: the RMS distance of
samples to where the exactly guided flow takes the same noise, and their sliced Wasserstein distance
to the ends of that flow from other noise. Beside the student is DPM-Solver++(2M) on the guided
model, whose every step takes two evaluations.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sde_diffusion as sd
from sde_diffusion import grids, networks, noise, objectives, samplers
from sde_diffusion.analytic import GaussianMixture, Labelled
from sde_diffusion.metrics import distances
from sde_diffusion.parameterization import EDM
from sde_diffusion.samplers.solver import draw_start

SDE = sd.EDM(t_min=0.01, t_max=10.0)
ANGLES = np.pi * np.arange(6) / 3
MEANS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=-1)
# Neighbours on the circle are of different classes, and overlap.
EXACT = Labelled.of([GaussianMixture.of(jnp.asarray(MEANS[c::3]), 0.3) for c in range(3)])
LOW, HIGH, WEIGHTS = 1.0, 4.0, (1.0, 2.0, 3.0, 4.0)
STEPS, BATCH, NUM = 4000, 64, 2000


def guide(model: sd.Model, weight: Any) -> sd.Model:
    return sd.guidance.classifier_free(model, weight, null=3)


def trained() -> sd.Model:
    numbers = (networks.TOWARDS, objectives.GUIDANCE)
    network = networks.MLP(features=128, num_classes=3, label_scale=10.0, numbers=numbers)
    cond = {"label": jnp.zeros(1, int), **{name: jnp.zeros(1) for name in numbers}}
    params = network.init(jax.random.key(1), jnp.zeros((1, 2)), jnp.zeros(1), cond)["params"]
    apply, teacher = networks.two_times(network.apply), EXACT.model(SDE)
    grid = partial(grids.karras, rho=5.0)
    trajectory = partial(objectives.trajectory_loss, steps=16, grid=grid)
    loss = objectives.guided(trajectory, guide, LOW, HIGH)
    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, 2e-3, 100, STEPS), b2=0.99)

    def student(params: Any) -> sd.Model:
        return sd.from_flow_map_network(SDE, apply, {"params": params}, EDM(0.75))

    def update(state: Any, key: Any) -> Any:
        params, moments = state
        labels = jax.random.randint(key, (BATCH,), 0, 3)
        shape = jnp.zeros((BATCH, 2))  # the samples themselves are not read

        def mean(params: Any) -> Any:
            return jnp.mean(loss(key, student(params), shape, cond=labels, teacher=teacher))

        updates, moments = optimizer.update(jax.grad(mean)(params), moments)
        return (optax.apply_updates(params, updates), moments), None

    scan = jax.jit(partial(jax.lax.scan, update))
    (params, _), _ = scan(
        (params, optimizer.init(params)), jax.random.split(jax.random.key(0), STEPS)
    )
    return student(params)


def drawn(model: sd.Model, seed: int, solver: Any, grid: Any) -> np.ndarray:
    labels = jnp.arange(NUM) % 3
    made = sd.sample(jax.random.key(seed), model, (NUM, 2), solver=solver, grid=grid, cond=labels)
    return np.asarray(made.x)


def exact_ends(model: sd.Model, seed: int) -> np.ndarray:
    keys, labels = noise.sample_keys(jax.random.key(seed), NUM), jnp.arange(NUM) % 3
    start = draw_start(keys, SDE, jnp.array([SDE.t_max]), (NUM, 2))
    solved = sd.flow_map.solved(model, steps=128)
    return np.asarray(jax.jit(lambda x: solved.flow_map(x, SDE.t_max, SDE.t_min, labels).x)(start))


def main() -> None:
    student = trained()
    print("| weight | floor | | evaluations | rms | sliced |\n|---|---|---|---|---|---|")
    for weight in WEIGHTS:
        guided = guide(EXACT.model(SDE), weight)
        ends, others = exact_ends(guided, 3), exact_ends(guided, 4)
        floor = distances.sliced_wasserstein(ends, others, 0)
        told = objectives.told_weight(student, weight)
        rows = {("student", 1): drawn(told, 3, samplers.FlowMap(), grids.karras(SDE, 1))}
        for steps in (1, 3, 7, 15):  # and one more, which denoises
            grid = grids.karras(SDE, steps)
            x = drawn(guided, 3, samplers.DPMSolverPP2M(), grid)
            rows["guided DPM-Solver++(2M)", 2 * (steps + 1)] = x
        for (name, nfe), x in rows.items():
            rms = np.sqrt(np.mean((x - ends) ** 2))
            sliced = distances.sliced_wasserstein(x, others, 0)
            print(f"| {weight:g} | {floor:.3f} | {name} | {nfe} | {rms:.3f} | {sliced:.3f} |")


if __name__ == "__main__":
    main()
