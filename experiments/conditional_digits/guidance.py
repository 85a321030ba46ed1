"""Class agreement and Frechet ratio over the weight of guidance, by three kinds of it.

    python experiments/conditional_digits/guidance.py --digits runs/digits_train \\
        --worse runs/digits_worse --out experiments/conditional_digits

writes guidance.md, guidance.png (the figures over the weight) and guided.png (samples). README.md
says how the two runs are trained.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import runs
from matplotlib.figure import Figure

import sde_diffusion as sd
from sde_diffusion import data, grids, guidance, metrics, samplers
from sde_diffusion.cli import picture
from sde_diffusion.data import Feature

NUM, SEEDS, STEPS = 1000, (0, 1, 2), 19
WEIGHTS = (1.0, 1.5, 2.0, 3.0, 4.0)
INTERVAL = (0.1, 5.0)  # noise levels sigma
FIGURES = ("agreement", "frechet_ratio", "recall")
RANGE = Feature((8, 8, 1), "float32", -1.0, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", required=True, help="the run of digits with dropped labels")
    parser.add_argument("--worse", required=True, help="the run of a smaller network")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    model, worse = runs.model(args.digits), runs.model(args.worse)
    train = runs.digits("train")
    kinds: dict[str, Callable[[float], sd.Model]] = {
        "classifier-free": lambda w: guidance.classifier_free(model, w, null=-1),
        f"classifier-free at sigma from {INTERVAL[0]} to {INTERVAL[1]}": lambda w: (
            guidance.interval(guidance.classifier_free(model, w, null=-1), model, *INTERVAL)
        ),
        "autoguidance": lambda w: guidance.autoguidance(model, worse, w),
    }
    found = {
        (kind, w): figures(model if w == 1.0 else make(w), train)
        for kind, make in kinds.items()
        for w in WEIGHTS
    }
    text = table(found)
    (args.out / "guidance.md").write_text(text)
    print(text)
    plot(found, list(kinds), args.out / "guidance.png")
    shown = [drawn(kinds["classifier-free"](w), np.repeat(np.arange(10), 2), 0) for w in WEIGHTS]
    images = np.concatenate([np.asarray(x) for x, _ in shown])
    picture.save(args.out / "guided.png", images, RANGE, columns=20)


def drawn(model: sd.Model, label: np.ndarray, seed: int) -> tuple[jax.Array, int]:
    """(samples of these classes, evaluations of each)."""
    samples = sd.sample(
        jax.random.key(seed),
        model,
        (len(label), 8, 8, 1),
        solver=samplers.DPMSolverPP2M(),
        grid=grids.karras(model.sde, STEPS, rho=2.4),
        cond=jnp.asarray(label),
    )
    return samples.x, int(np.max(samples.nfe))


def figures(model: sd.Model, train: runs.Digits) -> dict[str, np.ndarray]:
    """The figures [len(SEEDS)] of samples of classes in the proportions of the data."""
    counts = tuple(np.bincount(train.label).tolist())
    label = data.in_proportion(counts, NUM)
    made: dict[str, list[float]] = {name: [] for name in (*FIGURES, "nfe")}
    for seed in SEEDS:
        x, nfe = drawn(model, label, seed)
        report = metrics.evaluate(
            np.clip(np.asarray(x), -1, 1),
            np.asarray(train.x),
            y=label,
            labels=train.label,
            low=-1.0,
            high=1.0,
            seed=seed,
        )
        for name in FIGURES:
            made[name].append(report.figures[name])
        made["nfe"].append(nfe)
    return {name: np.array(values) for name, values in made.items()}


def table(found: dict[tuple[str, float], dict[str, np.ndarray]]) -> str:
    lines = [
        "# Guided digits",
        "",
        f"Means over {len(SEEDS)} seeds of {NUM} samples each, with 95 % intervals.",
        "",
        "| guidance | weight | evaluations | agreement | Frechet ratio | recall |",
        "|---|---|---|---|---|---|",
    ]
    for (kind, weight), made in found.items():
        if weight == 1.0 and kind != next(iter(found))[0]:
            continue  # no guidance, whatever its kind
        cells = [told(made["agreement"], 100, 1), *(told(made[n], 1, 2) for n in FIGURES[1:])]
        name = kind if weight != 1.0 else "none"
        lines.append(f"| {name} | {weight:g} | {made['nfe'][0]:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def told(values: np.ndarray, scale: float, digits: int) -> str:
    """Mean and 95 % interval, by Student's t for as many values as there are seeds."""
    half = 4.303 * np.std(values, ddof=1) / np.sqrt(len(values))  # t for two degrees of freedom
    return f"{scale * np.mean(values):.{digits}f} ± {scale * half:.{digits}f}"


def plot(
    found: dict[tuple[str, float], dict[str, np.ndarray]], kinds: list[str], path: Path
) -> None:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, len(FIGURES))
    for axis, name in zip(axes, FIGURES, strict=True):
        for kind in kinds:
            values = [np.mean(found[kind, w][name]) for w in WEIGHTS]
            axis.plot(WEIGHTS, values, marker="o", label=kind)
        axis.set(xlabel="weight", title=name.replace("_", " "))
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
