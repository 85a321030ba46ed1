"""Digits made whole: 4x4 to 8x8, and a hidden lower half, on the 297 digits not trained on.

    python experiments/conditional_digits/restoration.py --digits runs/digits_train \\
        --superres runs/superres --out experiments/conditional_digits

writes restoration.md, superres.png and inpainting.png. README.md says how the two runs are trained.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import runs

import sde_diffusion as sd
from sde_diffusion import grids, inverse, objectives, samplers
from sde_diffusion.cli import picture
from sde_diffusion.data import Feature

COPIES = 8  # samples of each digit
HIDDEN_NOISE = 0.1  # std of the noise on the known half, in units of the models' range
RANGE = Feature((8, 8, 1), "float32", -1.0, 1.0)
MULTISTEP, NOISY = samplers.DPMSolverPP2M(), samplers.DDIM(eta=1.0)


class Way(NamedTuple):
    """A model with a solver and how many steps it takes."""

    model: sd.Model
    solver: samplers.Solver
    steps: int


# From the network of digits and the operator of the measurement.
WAYS: dict[str, Callable[[sd.Model, inverse.Operator], Way]] = {
    "MMPS, DPM++(2M)": lambda m, a: Way(inverse.mmps(m, a, iterations=1), MULTISTEP, 19),
    "MMPS, DDIM(eta=1)": lambda m, a: Way(inverse.mmps(m, a, iterations=1), NOISY, 100),
    "PiGDM, DDIM(eta=1)": lambda m, a: Way(inverse.pigdm(m, a), NOISY, 100),
    "replacement, DDIM(eta=1)": lambda m, a: Way(m, inverse.Replacement(NOISY, a), 100),
    "RePaint, DDIM(eta=1)": lambda m, a: Way(m, inverse.RePaint(NOISY, a, repeats=5), 40),
    "DiffPIR": lambda m, a: Way(m, inverse.DiffPIR(a), 100),
}
PARTICLES = "twisted diffusion, 8 particles"
INPAINTING = {
    **WAYS,
    PARTICLES: lambda m, a: Way(m, inverse.TDS(particles=8, reward=inverse.likelihood(a)), 60),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", required=True, help="the run of digits with dropped labels")
    parser.add_argument("--superres", required=True, help="the run of configs/digits_superres.py")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    train, test = runs.digits("train"), runs.digits("test")
    free, told = runs.model(args.digits), runs.model(args.superres)
    larger = super_resolution(told, free, test, args.out)
    half = inpainting(free, train, test, args.out)
    text = "\n".join(["# Restored digits", "", *larger, "", *half])
    (args.out / "restoration.md").write_text(text + "\n")
    print(text)


def drawn(way: Way, cond: Any, num: int) -> tuple[jax.Array, int]:
    """COPIES samples for each of `num` conditions, [num, COPIES, 8, 8, 1]; evaluations of each."""
    repeated = jax.tree.map(lambda each: jnp.repeat(each, COPIES, axis=0), cond)
    samples = sd.sample(
        jax.random.key(0),
        way.model,
        (num * COPIES, 8, 8, 1),
        solver=way.solver,
        grid=grids.karras(way.model.sde, way.steps, rho=2.4),
        cond=repeated,
    )
    return samples.x.reshape(num, COPIES, 8, 8, 1), int(np.max(samples.nfe))


def super_resolution(told: sd.Model, free: sd.Model, test: runs.Digits, out: Path) -> list[str]:
    """The table of 4x4 to 8x8, and its picture."""
    operator = inverse.Downsampling(2)
    small = operator(test.x)
    condition = {"image": objectives.low_resolution(2, noise=0.3).of_measurement(small)}
    measurement = inverse.Measurement.of(small, 0.0, cond=jnp.full(len(small), -1))
    network = "a network that is told the small image"
    found = {
        "nearest neighbour": (jnp.repeat(jnp.repeat(small, 2, 1), 2, 2)[:, None], 0),
        "bicubic": (jax.image.resize(small, test.x.shape, "cubic")[:, None], 0),
        network: drawn(Way(told, MULTISTEP, 19), condition, len(small)),
    }
    for name, way in WAYS.items():
        found[name] = drawn(way(free, operator), measurement, len(small))
    lines = [
        "| 4x4 to 8x8 | evaluations | RMSE of a sample | RMSE of the mean of 8 | RMSE of its 4x4 | "
        "far off |",
        "|---|---|---|---|---|---|",
    ]
    for name, (x, nfe) in found.items():
        errors = x - test.x[:, None], jnp.mean(x, axis=1) - test.x
        again = jax.vmap(operator, 1, 1)(x) - small[:, None]
        lines.append(
            f"| {name} | {nfe} | {rmse(errors[0])} | {rmse(errors[1])} | {rmse(again)} | {far(x)} |"
        )
    shown = ["nearest neighbour", "bicubic", network, "MMPS, DDIM(eta=1)"]
    columns = [found[name][0][:12, :2] for name in shown]
    save(out / "superres.png", jnp.concatenate([*columns, test.x[:12, None]], axis=1))
    return lines


def inpainting(model: sd.Model, train: runs.Digits, test: runs.Digits, out: Path) -> list[str]:
    """The table of a hidden lower half, and its picture."""
    mask = jnp.zeros((8, 8, 1)).at[:4].set(1.0)
    operator = inverse.Inpainting(mask)
    unlabelled = jnp.full(len(test.x), -1)
    measurement = inverse.measure(jax.random.key(1), operator, test.x, HIDDEN_NOISE, unlabelled)
    exact = posterior_of_classes(train, measurement.y, mask)
    sure = np.argmax(exact, axis=1) == test.label
    classifier = runs.judge(train)
    lines = [
        f"The exact posterior over the training digits gives the true class the largest share for "
        f"{runs.share(sure)} of the digits.",
        "",
        "| lower half hidden | evaluations | of the true class, where the exact posterior finds it "
        "| RMSE of the known half | far off |",
        "|---|---|---|---|---|",
    ]
    shown = [test.x[:12, None], jnp.where(mask == 1, test.x, 0.0)[:12, None]]
    for name, way in INPAINTING.items():
        x, nfe = drawn(way(model, operator), measurement, len(test.x))
        seen = classifier.labels(runs.as_judged(x.reshape(-1, 64))).reshape(len(x), COPIES)
        agrees = (seen == test.label[:, None])[sure]
        known = rmse((x - test.x[:, None])[:, :, :4])
        lines.append(f"| {name} | {nfe} | {runs.share(agrees)} | {known} | {far(x)} |")
        shown.append(x[:12, :1])
    judged = classifier.labels(runs.as_judged(test.x)) == test.label
    lines.append(f"| the digits themselves | | {runs.share(judged[sure])} | 0.00 | |")
    save(out / "inpainting.png", jnp.concatenate(shown, axis=1))
    return lines


def far(x: jax.Array) -> str:
    """The share of images with a pixel at twice the range or farther off."""
    return f"{100 * float(jnp.mean(jnp.max(jnp.abs(x), axis=(2, 3, 4)) > 2.0)):.1f} %"


def posterior_of_classes(train: runs.Digits, y: jax.Array, mask: jax.Array) -> np.ndarray:
    """p(class | y) [N, 10] where the data are the training digits, by exp(-|y - A x|^2 / 2 s^2)."""
    differences = (y[:, None] - train.x[None] * mask) * mask
    squares = jnp.sum(differences**2, axis=(2, 3, 4))
    weights = np.asarray(jax.nn.softmax(-squares / (2 * HIDDEN_NOISE**2), axis=1), float)
    classes = np.stack([weights[:, train.label == k].sum(axis=1) for k in range(10)], axis=1)
    return classes / classes.sum(axis=1, keepdims=True)


def rmse(difference: jax.Array) -> str:
    """The root of the mean square in units of a pixel, 0 to 16; differences are clipped to that."""
    return (
        f"{runs.LEVELS / 2 * float(jnp.sqrt(jnp.mean(jnp.clip(difference, -2.0, 2.0) ** 2))):.2f}"
    )


def save(path: Path, rows: jax.Array) -> None:
    """Images [N, K, 8, 8, 1] as N columns of K images."""
    columns = np.asarray(rows).swapaxes(0, 1).reshape(-1, 8, 8, 1)
    picture.save(path, columns, RANGE, columns=len(rows))


if __name__ == "__main__":
    main()
