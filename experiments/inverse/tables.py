"""Writes the tables and the picture of docs/inverse.md: how wrong each method is, and its cost.

    python experiments/inverse/tables.py [--doc docs/inverse.md] [--num 500] [--steps 100]
        [--problems NAME,NAME]

With --problems it writes the named tables only; "particles" is the one over numbers of particles.

Each problem has an exact posterior. Errors are distances between `num` samples of a method and
`num` exact ones, with a 95 % interval; the floor is what two exact sets differ by.
"""

import argparse
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from posteriors import METHODS, SDE, Method, Problem, problems
from tqdm import tqdm

import sde_diffusion as sd
from sde_diffusion import grids, inverse, samplers
from sde_diffusion.analytic import Gaussian
from sde_diffusion.metrics import distances

HEAD = "| method | evaluations | backward passes | mean | covariance | mode weights | sliced W |"
PARTICLES = (1, 2, 4, 8, 16, 32)


def measures(problem: Problem) -> dict[str, distances.Distance]:
    """The distances of a problem's table; that of the weights is their total variation."""
    made = {
        "mean": distances.mean_error,
        "covariance": distances.covariance_error,
        "sliced W": distances.sliced_wasserstein,
    }
    if problem.modes is not None:
        modes = problem.modes

        def weights(x, y, seed=0):
            apart = modes(np.asarray(x)).mean(0) - modes(np.asarray(y)).mean(0)
            return float(0.5 * np.abs(apart).sum())

        made["mode weights"] = weights
    return made


def cells(problem: Problem, x: np.ndarray, exact: np.ndarray) -> list[str]:
    """The errors of samples x with half the width of their intervals."""
    made = []
    for name in ("mean", "covariance", "mode weights", "sliced W"):
        f = measures(problem).get(name)
        if f is None:
            made.append("-")
            continue
        low, high = distances.interval(f, x, exact, resamples=16)
        made.append(f"{(low + high) / 2:.3f} ± {(high - low) / 2:.3f}")
    return made


def floors(problem: Problem, num: int) -> list[str]:
    draws = {i: np.asarray(problem.exact.sample(jax.random.key(100 + i), num)) for i in range(16)}
    made = []
    for name in ("mean", "covariance", "mode weights", "sliced W"):
        f = measures(problem).get(name)
        if f is None:
            made.append("-")
            continue
        mean, std = distances.floor(f, draws.__getitem__)
        made.append(f"{mean:.3f} ± {2 * std:.3f}")
    return made


def sampled(problem: Problem, method: Method, num: int, steps: int) -> tuple[np.ndarray, int]:
    """(samples [num, D], evaluations of a sample)."""
    model, solver = method.make(problem)
    made = sd.sample(
        jax.random.key(0),
        model,
        (num, problem.size),
        solver=solver,
        grid=grids.log_snr(SDE, steps),
        cond=problem.measurement(num),
    )
    return np.asarray(made.x), int(np.max(made.nfe))


def row(name: str, evaluations: str, backward: str, values: list[str]) -> str:
    return "| " + " | ".join([name, evaluations, backward, *values]) + " |"


def table(problem: Problem, num: int, steps: int, gathered: dict) -> str:
    exact = np.asarray(problem.exact.sample(jax.random.key(7), num))
    gathered[problem.name, "exact"] = exact
    lines = [HEAD, "|" + "---|" * 7, row("two exact sets", "", "", floors(problem, num))]
    if problem.operator.linear:
        options = {"solver": samplers.SDEDPMSolverPP2M(), "grid": grids.log_snr(SDE, steps)}
        shape = (num, problem.size)
        x = sd.sample(jax.random.key(0), problem.exact.model(SDE), shape, **options).x
        values = cells(problem, np.asarray(x), exact)
        lines.append(row("exact model of the posterior", str(steps + 1), "0", values))
    for method in METHODS:
        if not (problem.operator.linear or method.nonlinear):
            continue
        x, nfe = sampled(problem, method, num, steps)
        gathered[problem.name, method.name] = x
        finite = np.isfinite(x).all(axis=1)
        if finite.mean() < 0.9:
            values = [f"{1 - finite.mean():.0%} are not finite", "", "", ""]
        else:
            values = cells(problem, x[finite], exact[finite])
        # A particle method, and DPS, denoise at the end without a backward pass.
        solver = method.make(problem)[1]
        last = getattr(solver, "particles", 1) if solver.denoises else 0
        backward = method.backward(problem) * (nfe - last)
        lines.append(row(method.name, str(nfe), str(backward), values))
    return "\n".join(lines)


def particle_order(num: int = 20_000, steps: int = 15) -> tuple[str, float, float]:
    """Errors of the mean over numbers of particles, and the slopes of TDS and steering."""
    prior = Gaussian.of(jnp.array([0.5, -0.3]), jnp.array([[1.0, 0.8], [0.8, 1.0]]))
    operator, model = inverse.Inpainting(jnp.array([1, 0])), prior.model(SDE)
    y, std, grid = jnp.array([[1.7, 0.0]]), 0.5, grids.log_snr(SDE, steps)
    # The target: the samples of the same steps without a measurement, weighted by its likelihood.
    many = 400_000
    options = {"solver": samplers.Ancestral(), "grid": grid}
    free = sd.sample(jax.random.key(9), model, (many, 2), **options).x
    reward = inverse.likelihood(operator)
    cond = inverse.Measurement.of(jnp.broadcast_to(y, (many, 2)), std)
    target = jax.nn.softmax(reward(free, jnp.zeros(()), cond)) @ free
    cond = inverse.Measurement.of(jnp.broadcast_to(y, (num, 2)), std)
    lines = ["| particles | TDS | FKSteering |", "|---|---|---|"]
    errors = []
    for particles in PARTICLES:
        pair = []
        for solver in (
            inverse.TDS(particles=particles, reward=reward),
            inverse.FKSteering(particles=particles, reward=reward, solver=samplers.Ancestral()),
        ):
            made = sd.sample(
                jax.random.key(0), model, (num, 2), solver=solver, grid=grid, cond=cond
            ).particles
            # The mean over all weighted particles is that of the samples, with less noise.
            means = jnp.einsum("bk,bkd->bd", jnp.exp(made.log_weights), made.x)
            error = np.asarray(means.mean(0) - target)
            noise = np.asarray(means.std(0)) / np.sqrt(num)
            pair.append((np.linalg.norm(error), 2 * np.linalg.norm(noise)))
        errors.append([error for error, _ in pair])
        lines.append(f"| {particles} | " + " | ".join(f"{e:.4f} ± {n:.4f}" for e, n in pair) + " |")
    slopes = [
        np.polyfit(np.log(PARTICLES[:5]), np.log([e[i] for e in errors[:5]]), 1)[0] for i in (0, 1)
    ]
    return "\n".join(lines), -slopes[0], -slopes[1]


def picture(gathered: dict, path: Path) -> None:
    """Samples of the mixture's posterior, and of phase retrieval's, by every method."""
    shown = [
        (problem, method)
        for problem in ("mixture", "phase retrieval")
        for method in ("exact", *[m.name for m in METHODS])
        if (problem, method) in gathered
    ]
    columns = 7
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2 * columns, 2.1 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (problem, method) in zip(axes.flat, shown, strict=False):
        x = gathered[problem, method]
        axis.scatter(*x[:400].T, s=2, color="black" if method == "exact" else "tab:blue")
        axis.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal")
        axis.set_title(f"{problem}: {method}" if method == "exact" else method, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def write(doc: Path, name: str, text: str) -> None:
    """Put the text between the page's comments <!-- name --> and <!-- end -->."""
    page = doc.read_text()
    pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
    made, count = re.subn(pattern, lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{doc} needs the comment <!-- {name} -->, once")
    doc.write_text(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--doc", type=Path, default=Path("docs/inverse.md"))
    parser.add_argument("--num", type=int, default=400)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--problems")
    arguments = parser.parse_args()
    chosen = arguments.problems.split(",") if arguments.problems else None
    gathered: dict = {}
    known = {problem.name: problem for problem in problems()}
    names = list(known) if chosen is None else [name for name in chosen if name in known]
    for problem in tqdm([known[name] for name in names]):
        start = time.perf_counter()
        text = table(problem, arguments.num, arguments.steps, gathered)
        print(f"{problem.title}: {time.perf_counter() - start:.0f} s\n{text}", flush=True)
        write(arguments.doc, problem.name, text)
    if chosen is None or "particles" in chosen:
        text, tds, steering = particle_order()
        text += f"\n\nThe slope over 1 to 16 particles is {tds:.2f} for TDS, {steering:.2f} for "
        print(text + "FKSteering.")
        write(arguments.doc, "particles", text + "FKSteering.")
    if {("mixture", "exact"), ("phase retrieval", "exact")} <= gathered.keys():
        picture(gathered, arguments.doc.parent / "images" / "inverse.png")


if __name__ == "__main__":
    main()
