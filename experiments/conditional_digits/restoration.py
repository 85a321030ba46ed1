"""Digits made whole: 4x4 to 8x8, and a hidden lower half, on the 297 digits not trained on.

    python experiments/conditional_digits/restoration.py --digits runs/digits_train \\
        --superres runs/superres --out experiments/conditional_digits

writes restoration.md, superres.png and inpainting.png. README.md says how the two runs are trained.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import runs

import sde_diffusion as sd
from sde_diffusion import grids, inverse, objectives, samplers
from sde_diffusion.cli import picture
from sde_diffusion.data import Feature

STEPS, COPIES = 19, 8  # of the solver; samples of each digit
HIDDEN_NOISE = 0.1  # std of the noise on the known half, in units of the models' range
RANGE = Feature((8, 8, 1), "float32", -1.0, 1.0)
METHODS: dict[str, Callable[..., sd.Model]] = {
    "MMPS, 1 iteration": lambda model, operator: inverse.mmps(model, operator, iterations=1),
    "PiGDM": inverse.pigdm,
    "SDA, gamma = 1": lambda model, operator: inverse.sda(model, operator, gamma=1.0),
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
    text = "\n".join([*larger, "", *inpainting(free, train, test, args.out)])
    (args.out / "restoration.md").write_text(text + "\n")
    print(text)


def drawn(model: sd.Model, cond: Any, num: int) -> jax.Array:
    """COPIES samples for each of `num` conditions [num, ...]: [num, COPIES, 8, 8, 1]."""
    grid = grids.karras(model.sde, STEPS, rho=2.4)
    repeated = jax.tree.map(lambda each: jnp.repeat(each, COPIES, axis=0), cond)
    x = sd.sample(
        jax.random.key(0),
        model,
        (num * COPIES, 8, 8, 1),
        solver=samplers.DPMSolverPP2M(),
        grid=grid,
        cond=repeated,
    ).x
    return x.reshape(num, COPIES, 8, 8, 1)


def super_resolution(told: sd.Model, free: sd.Model, test: runs.Digits, out: Path) -> list[str]:
    """The table of 4x4 to 8x8, and its picture."""
    operator = inverse.Downsampling(2)
    small = operator(test.x)
    condition = objectives.low_resolution(2, noise=0.3).of_measurement(small)
    found = {
        "nearest neighbour": jnp.repeat(jnp.repeat(small, 2, 1), 2, 2)[:, None],
        "bicubic": jax.image.resize(small, test.x.shape, "cubic")[:, None],
        "a network that is told the small image": drawn(told, {"image": condition}, len(small)),
    }
    unlabelled = jnp.full(len(small), -1)
    for name, method in METHODS.items():
        measurement = inverse.Measurement.of(small, 0.0, cond=unlabelled)
        found[f"{name}, the network of digits"] = drawn(
            method(free, operator), measurement, len(small)
        )
    lines = [
        "| 4x4 to 8x8 | RMSE of a sample | RMSE of the mean of 8 | RMSE of its 4x4 | far off |",
        "|---|---|---|---|---|",
    ]
    for name, x in found.items():
        lost = jnp.max(jnp.abs(x), axis=(2, 3, 4)) > 2.0
        kept = jnp.clip(x, -1.0, 1.0)
        small_again = jax.vmap(operator, 1, 1)(x)
        lines.append(
            f"| {name} | {rmse(kept - test.x[:, None])} | "
            f"{rmse(jnp.mean(kept, axis=1) - test.x)} | "
            f"{rmse(jnp.clip(small_again, -2, 2) - small[:, None])} | "
            f"{100 * float(jnp.mean(lost)):.1f} % |"
        )
    shown = [found[name][:12, :1] for name in ("nearest neighbour", "bicubic")]
    samples = [found[name][:12, :2] for name in list(found)[2:4]]
    rows = jnp.concatenate([*shown, *samples, test.x[:12, None]], axis=1)
    save(out / "superres.png", rows)
    return lines


def inpainting(model: sd.Model, train: runs.Digits, test: runs.Digits, out: Path) -> list[str]:
    """The table of a hidden lower half, and its picture."""
    mask = jnp.zeros((8, 8, 1)).at[:4].set(1.0)
    operator = inverse.Inpainting(mask)
    measurement = inverse.measure(
        jax.random.key(1), operator, test.x, HIDDEN_NOISE, jnp.full(len(test.x), -1)
    )
    exact = posterior_of_classes(train, measurement.y, mask)
    best = np.argmax(exact, axis=1)
    sure = best == test.label
    classifier = runs.judge(train)
    lines = [
        f"The exact posterior over the training digits finds the true class of "
        f"{runs.share(sure)} of the digits.",
        "",
        "| lower half hidden | samples of the true class, where the exact posterior finds it | "
        "distance of class shares to the exact ones | RMSE of the known half |",
        "|---|---|---|---|",
    ]
    shown = [test.x[:12, None], jnp.where(mask == 1, test.x, 0.0)[:12, None]]
    for name, method in METHODS.items():
        x = drawn(method(model, operator), measurement, len(test.x))
        seen = classifier.labels(runs.as_judged(x.reshape(-1, 64))).reshape(len(x), COPIES)
        agrees = seen == test.label[:, None]
        shares = np.stack([np.mean(seen == k, axis=1) for k in range(10)], axis=1)
        distance = 0.5 * np.mean(np.sum(np.abs(shares - exact), axis=1))
        lines.append(
            f"| {name} | {runs.share(agrees[sure])} | {distance:.3f} | "
            f"{rmse((x - test.x[:, None])[:, :, :4])} |"
        )
        shown.append(x[:12, :2])
    drawn_exactly = np.random.default_rng(0).multinomial(COPIES, exact) / COPIES
    floor = 0.5 * np.mean(np.sum(np.abs(drawn_exactly - exact), axis=1))
    expected = exact[np.arange(len(exact)), test.label][sure]
    lines.append(f"| 8 exact draws | {100 * np.mean(expected):.1f} % | {floor:.3f} | |")
    save(out / "inpainting.png", jnp.concatenate(shown, axis=1))
    return lines


def posterior_of_classes(train: runs.Digits, y: jax.Array, mask: jax.Array) -> np.ndarray:
    """p(class | y) [N, 10] where the data are the training digits, by exp(-|y - A x|^2 / 2 s^2)."""
    differences = (y[:, None] - train.x[None] * mask) * mask
    squares = jnp.sum(differences**2, axis=(2, 3, 4))
    weights = np.asarray(jax.nn.softmax(-squares / (2 * HIDDEN_NOISE**2), axis=1), float)
    classes = np.stack([weights[:, train.label == k].sum(axis=1) for k in range(10)], axis=1)
    return classes / classes.sum(axis=1, keepdims=True)


def rmse(difference: jax.Array) -> str:
    """The root of the mean square, in units of a digit's range of 16."""
    return f"{runs.LEVELS / 2 * float(jnp.sqrt(jnp.mean(difference**2))):.2f}"


def save(path: Path, rows: jax.Array) -> None:
    """Images [N, K, 8, 8, 1] as N columns of K images."""
    columns = np.asarray(rows).swapaxes(0, 1).reshape(-1, 8, 8, 1)
    picture.save(path, columns, RANGE, columns=len(rows))


if __name__ == "__main__":
    main()
