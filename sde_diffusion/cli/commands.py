"""The commands: train, sample, evaluate."""

import io
import json
import time
from argparse import Namespace

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from sde_diffusion import data, distributed, notation, training
from sde_diffusion.cli import bits_per_dim, draw, run
from sde_diffusion.config import build
from sde_diffusion.config import schema as configs
from sde_diffusion.config.check import check
from sde_diffusion.training import TrainState

# Numbers of real data that `evaluate` compares with: 1 GiB of float64.
MOST_NUMBERS = 2**27


def train(args: Namespace, overrides: dict[str, str]) -> None:
    """Train the network of a config in a folder, going on where a run in it was left."""
    workdir = run.folder(args.workdir)
    config = configs.load(args.config, overrides)
    # All that can be wrong with the config is found out before the folder is touched.
    source = build.source(config)
    features = source.features
    check(config, features)
    mesh, recipe, planned = build.mesh(config), build.recipe(config, features), build.run(config)
    batches = data.batches(
        data.select(source, build.record_names(config, features)),
        config.training.batch_size,
        config.seed,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    abstract = jax.eval_shape(recipe.init_params, jax.random.key(0))
    run.claim(workdir, config, overwrite=args.overwrite)
    run.enable_cache()

    size = sum(leaf.size for leaf in jax.tree.leaves(abstract))
    _say(
        f"{config.network.name} of {size:,} parameters on {len(source):,} samples of "
        f"{source.name} {features.event.shape}; {jax.device_count()} {jax.default_backend()} device"
    )
    if build.is_conditional(config):
        _say(f"classes: {draw.class_table(features)}")

    y = draw.labels(features, 100) if build.is_conditional(config) else None

    def pictures(state: TrainState, step: int) -> None:
        params = run.sampling_params(state)
        num = 100 if len(features.event.shape) == 3 else 2000
        x, _ = draw.draw(config, params, features, num, seed=0, y=y)
        if not distributed.is_first_process():
            return
        columns = len(draw.classes_with_data(features)) if y is not None else 10
        draw.picture(workdir / "samples" / f"step_{step:07d}.png", x, source, columns)
        training.plot_loss(workdir)

    every = []
    if draw.has_picture(features):
        every.append(training.Every(config.training.sample_every, pictures))
    outcome = training.train(recipe, planned, batches, workdir, every=every, mesh=mesh)
    if distributed.is_first_process():
        training.plot_loss(workdir)
    done = int(outcome.state.step)
    if outcome.preempted:
        _say(f"stopped at step {done} of {config.training.steps}; the same command goes on")
    else:
        _say(f"trained to step {done}: {workdir}")


def sample(args: Namespace, overrides: dict[str, str]) -> None:
    """Draw samples from a trained network into a picture or an array file."""
    out = epath.Path(args.out)
    if out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out must end in .png or .npz, got {out}")
    if args.num < 1:
        raise ValueError(f"--num must be at least 1, got {args.num}")
    workdir = run.folder(args.workdir)
    config = run.read_config(workdir, _sampling_options(args) | overrides)
    source = build.source(config)
    build.solver(config), build.grid(config), build.mesh(config)
    if args.label is not None and not build.is_conditional(config):
        raise ValueError(f"--class: the network in {workdir} is not conditioned on a class")
    features = source.features
    y = draw.labels(features, args.num, args.label) if build.is_conditional(config) else None
    run.enable_cache()
    params, step = run.restore_params(workdir, config, features)

    start = time.perf_counter()
    x, nfe = draw.draw(config, params, features, args.num, seed=args.seed, y=y, progress=True)
    seconds = time.perf_counter() - start
    if not distributed.is_first_process():
        return
    if out.suffix == ".png":
        every = y is not None and args.label is None
        columns = len(draw.classes_with_data(features)) if every else None
        draw.picture(out, x, source, columns)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Under the names of the data's records, so that the source "npz" reads the file.
        arrays = {features.event_name: x} | ({} if y is None else {"label": y})
        file = io.BytesIO()
        np.savez(file, **arrays)  # type: ignore[arg-type]
        out.write_bytes(file.getvalue())
    solver = config.sampling.solver.name
    print(
        f"{args.num} samples of step {step} by {solver}, {nfe} evaluations each, "
        f"in {seconds:.1f} s (compilation included): {out}"
    )


def evaluate(args: Namespace, overrides: dict[str, str]) -> None:
    """Compare samples of a trained network with the data, and write evaluation.json."""
    from sde_diffusion import metrics

    workdir = run.folder(args.workdir)
    config = run.read_config(workdir, _sampling_options(args) | overrides)
    source = build.source(config)
    build.solver(config), build.grid(config), build.mesh(config)
    run.enable_cache()
    features = source.features
    params, step = run.restore_params(workdir, config, features)
    num, seed = config.eval.num, config.eval.seed
    y = draw.usual_labels(features, num) if build.is_conditional(config) else None
    real = _real_data(source, config.eval.data, seed)
    label = real.get("label") if y is not None else None
    for name, reason in metrics.missing(real[features.event_name], label, num).items():
        _say(f"{name} is left out: {reason}")

    draw.draw(config, params, features, num, seed=seed, y=y)  # compiles
    start = time.perf_counter()
    x, nfe = draw.draw(config, params, features, num, seed=seed, y=y, progress=True)
    seconds = time.perf_counter() - start
    whole = features.event.dtype == "uint8"
    told = (
        bits_per_dim.bits_per_dim(config, params, source, config.eval.bits, seed) if whole else {}
    )
    if not distributed.is_first_process():
        return
    low, high = features.event.range
    with tqdm(total=8, desc="comparing with the data", unit="metric") as bar:

        def progress(stage: str) -> None:
            bar.set_postfix_str(stage)
            bar.update()

        made = metrics.evaluate(
            x, real[features.event_name], y=y, labels=label, low=low, high=high, seed=seed,
            progress=progress,
        )  # fmt: skip
    report = {
        "step": step,
        "samples": num,
        "data": len(real[features.event_name]),
        "solver": config.sampling.solver.name,
        "evaluations": nfe,
        "sampling_seconds": seconds,
        **made.figures,
        **told,
        "left_out": made.left_out,
    }
    (workdir / "evaluation.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    width = max(len(name) for name in report)
    for name, value in report.items():
        print(
            f"{name:<{width}}  {value:.4g}"
            if isinstance(value, float)
            else f"{name:<{width}}  {value}"
        )


def _real_data(source: data.Source, most: int, seed: int) -> data.Batch:
    """At most `most` records, and no more than metrics hold in memory, drawn at random."""
    size = int(np.prod(source.features.event.shape))
    num = min(len(source), most, max(1, MOST_NUMBERS // size))
    rows = np.arange(len(source))
    if num < len(rows):
        rows = np.sort(np.random.default_rng(seed).permutation(len(rows))[:num])
    return data.take(source, rows)


def _sampling_options(args: Namespace) -> dict[str, str]:
    """--solver, --grid and --steps as what they are short for."""
    if args.solver is not None and args.solver.endswith(".json"):
        if args.grid is not None or args.steps is not None:
            raise ValueError(
                f"--solver {args.solver} brings its own grid: leave out --grid and --steps"
            )
        return {"sampling.solver.name": "fitted", "sampling.solver.path": args.solver}
    options = {"sampling.grid.name": args.grid, "sampling.steps": args.steps}
    options = {key: value for key, value in options.items() if value is not None}
    if args.solver is not None:
        name, fields = notation.read("solver", args.solver)
        fields = {"name": name, **fields}
        options |= {f"sampling.solver.{field}": value for field, value in fields.items()}
    return {key: str(value) for key, value in options.items()}


def _say(line: str) -> None:
    if distributed.is_first_process():
        print(line)
