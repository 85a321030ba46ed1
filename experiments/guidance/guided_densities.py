"""Guidance against exactly guided distributions: errors of each method, and a picture.

    python experiments/guidance/guided_densities.py measure PROBLEM
    python experiments/guidance/guided_densities.py table      the tables of docs/guidance.md
    python experiments/guidance/guided_densities.py picture    docs/images/guidance.png

PROBLEM is gaussian8d, mixture2d or mixture64d.

The target is p(x) p(c | x)^2 for class 0 of two classes. All scores are exact, so every error is
that of the method. Each method draws REPEATS sets of NUM samples, and each set is compared with
its own exact set; "two exact sets" is the floor.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.analytic import Gaussian, GaussianMixture, Labelled
from sde_diffusion.guidance import (
    FeynmanKac,
    Projected,
    Rescaled,
    cfg_plus_plus,
    classifier_free,
    interval,
)
from sde_diffusion.metrics.distances import covariance_error, mean_error, sliced_wasserstein

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PICTURE = HERE.parent.parent / "docs" / "images" / "guidance.png"

SDE, WEIGHT, NULL = sd.VP(), 2.0, 2
NUM, REPEATS = 200, 5
ODE_GRID, SDE_GRID = grids.cosine(SDE, 30), grids.cosine(SDE, 40)
COLUMNS = ("mean", "covariance", "mode weights", "sliced Wasserstein")


def gaussian8d() -> tuple[Labelled, np.ndarray]:
    """Two Gaussians of different covariance whose classes overlap."""
    rng = np.random.default_rng(0)
    parts, means = [], 0.35 * rng.standard_normal((2, 8))
    for mean in means:
        basis, _ = np.linalg.qr(rng.standard_normal((8, 8)))
        covariance = (basis * rng.uniform(0.05, 0.5, 8)) @ basis.T
        parts.append(Gaussian.of(jnp.asarray(mean), jnp.asarray(covariance)))
    return Labelled.of(parts, [0.5, 0.5]), means


def mixture2d() -> tuple[Labelled, np.ndarray]:
    """Two classes of two Gaussians each, which overlap at the sides."""
    means = np.array([[-0.8, 0.3], [0.2, 0.9], [0.7, -0.2], [-0.1, -0.8]])
    parts = [
        GaussianMixture.of(means[:2], jnp.array([0.3, 0.4])),
        GaussianMixture.of(means[2:], jnp.array([0.35, 0.25])),
    ]
    return Labelled.of(parts, [0.4, 0.6]), means


def mixture64d() -> tuple[Labelled, np.ndarray]:
    """Six modes, of which two belong to both classes: guidance must make these rarer."""
    means = 0.6 * np.random.default_rng(0).standard_normal((6, 64))
    parts = [GaussianMixture.of(means[:4], 0.2), GaussianMixture.of(means[2:], 0.2)]
    return Labelled.of(parts, [0.5, 0.5]), means


PROBLEMS = {"gaussian8d": gaussian8d, "mixture2d": mixture2d, "mixture64d": mixture64d}


def methods(model: sd.Model) -> dict[str, tuple[sd.Model, sd.Solver, jax.Array]]:
    """The name of each method, its model, its solver and its grid."""
    ode, noisy = samplers.DPMSolverPP2M(), samplers.StochasticHeun()
    guided = classifier_free(model, WEIGHT, null=NULL)

    def ruled(rule: Rescaled | Projected) -> sd.Model:
        return classifier_free(model, WEIGHT, null=NULL, rule=rule)

    def corrected(particles: int) -> FeynmanKac:
        return FeynmanKac(particles=particles, solver=noisy)

    plus = cfg_plus_plus(model, 0.6, grid=ODE_GRID, null=NULL)
    return {
        "no guidance (w = 1)": (model, ode, ODE_GRID),
        "classifier-free, ODE": (guided, ode, ODE_GRID),
        "classifier-free, SDE": (guided, noisy, SDE_GRID),
        "interval 0.3 to 3, ODE": (interval(guided, model, 0.3, 3.0), ode, ODE_GRID),
        "rescaled 0.7, ODE": (ruled(Rescaled(0.7)), ode, ODE_GRID),
        "projected, ODE": (ruled(Projected()), ode, ODE_GRID),
        "CFG++ 0.6, DDIM": (plus, samplers.DDIM(), ODE_GRID),
        "Feynman-Kac, 8 particles": (guided, corrected(8), SDE_GRID),
        "Feynman-Kac, 64 particles": (guided, corrected(64), SDE_GRID),
    }


def errors(x: np.ndarray, exact: np.ndarray, means: np.ndarray) -> list[float]:
    """The errors of COLUMNS; that of the mode weights is half of the sum of the differences."""

    def shares(points: np.ndarray) -> np.ndarray:
        distance = np.sum((points[:, None] - means) ** 2, axis=-1)
        return np.bincount(np.argmin(distance, axis=1), minlength=len(means)) / len(points)

    return [
        mean_error(x, exact),
        covariance_error(x, exact),
        0.5 * float(np.sum(abs(shares(x) - shares(exact)))),
        sliced_wasserstein(x, exact),
    ]


def measure(name: str) -> None:
    exact, means = PROBLEMS[name]()
    total, labels = NUM * REPEATS, jnp.zeros(NUM * REPEATS, int)
    draws = {
        key: np.asarray(exact.sample_guided(jax.random.key(key), 0, WEIGHT, total))
        for key in (1, 2)
    }
    samples, nfe, ess = {"two exact sets": draws[2]}, {"two exact sets": 0.0}, {}
    for label, (model, solver, grid) in methods(exact.model(SDE)).items():
        made = sd.sample(
            jax.random.key(0),
            model,
            (total, *exact.event),
            solver=solver,
            grid=grid,
            cond=labels,
        )
        samples[label], nfe[label] = np.asarray(made.x), float(jnp.mean(made.nfe))
        if made.particles is not None:
            ess[label] = float(jnp.mean(jnp.min(made.particles.ess, axis=0)))
        print(label, errors(samples[label], draws[1], means), flush=True)
    rows = {}
    for label, x in samples.items():
        sets = zip(np.split(x, REPEATS), np.split(draws[1], REPEATS), strict=True)
        told = np.array([errors(a, b, means) for a, b in sets])
        half = 2.776 * told.std(axis=0, ddof=1) / np.sqrt(REPEATS)  # Student's t of 4 degrees
        rows[label] = {
            "errors": told.mean(axis=0).tolist(),
            "half": half.tolist(),
            "nfe": nfe[label],
            "ess": ess.get(label),
        }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    if name == "mixture2d":
        np.savez_compressed(RESULTS / "samples.npz", **samples)


def table() -> None:
    for name in PROBLEMS:
        rows = json.loads((RESULTS / f"{name}.json").read_text())
        print(f"\n### {name}\n\n| method | NFE | least ESS | {' | '.join(COLUMNS)} |")
        print("|---" * (3 + len(COLUMNS)) + "|")
        for label, row in rows.items():
            cells = [
                f"{value:.3f} ± {half:.3f}"
                for value, half in zip(row["errors"], row["half"], strict=True)
            ]
            ess = "" if row["ess"] is None else f"{row['ess']:.1f}"
            print(f"| {label} | {row['nfe']:.0f} | {ess} | {' | '.join(cells)} |")


def picture() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    exact, _ = mixture2d()
    samples = np.load(RESULTS / "samples.npz")
    shown = (
        "no guidance (w = 1)",
        "classifier-free, ODE",
        "interval 0.3 to 3, ODE",
        "CFG++ 0.6, DDIM",
        "Feynman-Kac, 64 particles",
    )
    ticks = np.linspace(-2.2, 2.2, 200)
    points = jnp.asarray(np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2), jnp.float32)
    log_p = exact.log_prob(sd.EDM(), points, 0.0)
    log_c = exact.log_class(sd.EDM(), points, 0.0)[:, 0]
    density = np.exp(np.asarray(log_p + WEIGHT * log_c)).reshape(200, 200)
    figure, axes = plt.subplots(1, len(shown), figsize=(3 * len(shown), 3.3), sharey=True)
    for axis, label in zip(axes, shown, strict=True):
        axis.contour(ticks, ticks, density, levels=6, cmap="viridis", linewidths=1.2)
        axis.plot(*samples[label].T, ".", markersize=1.5, color="black", alpha=0.4)
        axis.set(title=label, aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=70)


if __name__ == "__main__":
    command, *rest = sys.argv[1:] or ["table"]
    {"measure": measure, "table": table, "picture": picture}[command](*rest)
