"""Flow maps learned by each objective, held against the exact map of known distributions.

    python experiments/few_steps/table.py --out runs/few_steps
    python experiments/few_steps/page.py runs/few_steps docs/few_steps.md

`--problem` chooses one of mixture2d, mixture64d and digits. The results are kept in the folder, so
a run that was stopped goes on where it was, and `--minutes` says after how long no further student
is begun.

Every student is the same network and is trained for the same budget of evaluations: a forward pass
of the network or of the exact model is 1, a backward pass 2, and a derivative in forward mode 1.
The teacher is the exact model, and objectives marked "data" learn from exact samples alone.

For each: `map`, the RMS distance of the student's flow map to the exact one over times t > s and
exact x_t; at 1, 2 and 4 evaluations `rms`, that of its samples to where the exact flow takes the
same noise, and `sliced`, the sliced Wasserstein distance to exact samples. Beside them are the best
standard solvers of the exact model and a fitted one with as many evaluations.
"""

import argparse
import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sde_diffusion as sd
from sde_diffusion import grids, networks, objectives, samplers
from sde_diffusion.comparison.problems import PROBLEMS
from sde_diffusion.metrics import distances
from sde_diffusion.objectives import consistency, time_density, weighting
from sde_diffusion.parameterization import EDM
from sde_diffusion.samplers.solver import draw_start

# Where each problem's SDE ends, the standard deviation of its data, and the size of the network.
SETTINGS: dict[str, dict[str, Any]] = {
    "mixture2d": {"t_min": 0.01, "t_max": 10.0, "sigma_data": 0.7, "features": 64},
    "mixture64d": {"t_min": 0.02, "t_max": 20.0, "sigma_data": 0.6, "features": 128},
    "digits": {"t_min": 0.02, "t_max": 20.0, "sigma_data": 0.75, "features": 128},
}
BATCH, NUM, BUDGETS = 256, 2000, (1, 2, 4)


class Method(NamedTuple):
    """A loss, whether it has a teacher, and the evaluations that a sample of a batch takes."""

    loss: Any
    teacher: bool
    cost: float
    gamma: float = 0.0  # of sampling, by which such students are sampled
    batch: int = BATCH


def methods(sde: sd.SDE, sigma_data: float) -> dict[str, Method]:
    edm = weighting.edm(sigma_data)
    times = time_density.log_normal(-1.0, 1.6)
    grid = partial(grids.karras, rho=7.0)
    mean = partial(objectives.meanflow_loss, times=times, apart=0.5, weighting=edm)
    scm = partial(objectives.scm_loss, sigma_data=sigma_data, mean=-1.0, std=1.6)
    return {
        "trajectories": Method(
            partial(objectives.trajectory_loss, steps=16, grid=grid, from_start=0.3, to_end=0.4),
            True,
            16 + 4 * 3,
            batch=BATCH // 4,  # of four pairs each
        ),
        "consistency distillation": Method(
            partial(objectives.consistency_loss, schedule=consistency.karras(18)), True, 6, 1.0
        ),
        "sCM distillation": Method(scm, True, 5, 1.0),
        "MeanFlow distillation": Method(mean, True, 5),
        "progressive (4 steps)": Method(
            partial(objectives.progressive_loss, steps=4, grid=grid, weighting=edm), True, 5
        ),
        "shortcut distillation": Method(
            partial(objectives.shortcut_loss, steps=32, grid=grid, weighting=edm, bootstrap=0.5),
            True,
            6,
        ),
        "iCT (data)": Method(
            partial(objectives.consistency_loss, schedule=consistency.ict()), False, 4, 1.0
        ),
        "ECT (data)": Method(
            partial(objectives.consistency_loss, schedule=consistency.ect()), False, 4, 1.0
        ),
        "sCM (data)": Method(scm, False, 4, 1.0),
        "MeanFlow (data)": Method(mean, False, 4),
        "improved MeanFlow (data)": Method(partial(mean, improved=True), False, 5),
        "shortcut (data)": Method(
            partial(objectives.shortcut_loss, steps=32, grid=grid, weighting=edm), False, 5
        ),
    }


def train(name: str, method: Method, exact: Any, sde: sd.SDE, setting: dict, budget: int) -> Any:
    """The trained student, and seconds."""
    network = networks.MLP(
        features=setting["features"],
        label_scale=10.0,  # smooth, as derivatives in the time need it
        octaves=3 if exact.event == (2,) else 0,
        numbers=(networks.TOWARDS,),
    )
    apply, parameterization = networks.two_times(network.apply), EDM(setting["sigma_data"])
    zeros, cond = jnp.zeros((1, *exact.event)), {networks.TOWARDS: jnp.zeros(1)}
    params = network.init(jax.random.key(1), zeros, jnp.zeros(1), cond)["params"]
    chunk = 50
    steps = max(1, round(budget / (method.cost * method.batch * chunk))) * chunk
    schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, min(100, steps // 4), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99))

    def student(params: Any) -> sd.Model:
        return sd.from_flow_map_network(sde, apply, {"params": params}, parameterization)

    # Without its exact flow map, which takes hundreds of evaluations and which progressive
    # distillation would use in place of steps of DDIM.
    teacher = dataclasses.replace(exact.model(sde), mapping=None) if method.teacher else None

    def mean_loss(params: Any, average: Any, key: Any, step: Any) -> Any:
        key_x, key = jax.random.split(key)
        x0 = exact.sample(key_x, method.batch)
        options = {"progress": step / steps, "teacher": teacher, "average": student(average)}
        return jnp.mean(method.loss(key, student(params), x0, **options))

    @jax.jit
    def several(state: Any, keys: Any, first: Any) -> Any:
        def update(state: Any, inputs: Any) -> Any:
            params, opt_state, average = state
            key, step = inputs
            grads = jax.grad(mean_loss)(params, average, key, step)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            rate = jnp.minimum(0.995, (1.0 + step) / (10.0 + step))
            average = jax.tree.map(lambda a, p: a + (1 - rate) * (p - a), average, params)
            return (params, opt_state, average), None

        return jax.lax.scan(update, state, (keys, first + jnp.arange(len(keys))))[0]

    state, key = (params, optimizer.init(params), params), jax.random.key(0)
    clock = time.perf_counter()
    for first in range(0, steps, chunk):
        keys = jax.random.split(jax.random.fold_in(key, first), chunk)
        state = several(state, keys, jnp.asarray(first, jnp.float32))
    jax.block_until_ready(state)
    return student(state[2]), steps, time.perf_counter() - clock


def rms(a: Any, b: Any) -> float:
    """The root of the mean over samples of the mean square over dimensions."""
    return float(np.sqrt(np.mean((np.asarray(a) - np.asarray(b)) ** 2)))


class Truth(NamedTuple):
    """Starts with their exact ends, exact samples, and exact maps between random times."""

    ends: np.ndarray
    data: np.ndarray
    map: tuple


def truth(exact: Any, sde: sd.SDE, path: Path) -> Truth:
    """What students are held against, computed once and kept in the file."""
    if path.exists():
        with np.load(path) as kept:
            return Truth(kept["ends"], kept["data"], tuple(kept[name] for name in "xtsm"))
    made = _truth(exact, sde)
    np.savez(path, ends=made.ends, data=made.data, **dict(zip("xtsm", made.map, strict=True)))
    return made


def _truth(exact: Any, sde: sd.SDE) -> Truth:
    key_x, key_t, key_z, key_d = jax.random.split(jax.random.key(7), 4)
    keys, shape = sd.noise.sample_keys(jax.random.key(3), NUM), (NUM, *exact.event)
    start = draw_start(keys, sde, jnp.array([sde.t_max]), shape)
    model = exact.model(sde)
    ends = jax.jit(lambda x: model.flow_map(x, sde.t_max, sde.t_min).x)(start)
    share = jax.random.uniform(key_t, (2, 500))
    low, high = np.log(sde.t_min), np.log(sde.t_max)
    t, s = (jnp.exp(low + (high - low) * f(share, axis=0)) for f in (jnp.max, jnp.min))
    x0 = exact.sample(key_x, 500)
    mean, std = sde.marginal_prob(x0, t)
    x = mean + sd.sdes.expand(std, x0) * jax.random.normal(key_z, x0.shape)
    mapped = jax.jit(lambda x: model.flow_map(x, t, s).x)(x)
    return Truth(np.asarray(ends), np.asarray(exact.sample(key_d, NUM)), (x, t, s, mapped))


def measured(x: np.ndarray, known: Truth, deterministic: bool) -> dict[str, float]:
    sliced = distances.sliced_wasserstein(x, known.data, 0)
    low, high = distances.interval(distances.sliced_wasserstein, x, known.data, 0)
    row = {"sliced": sliced, "sliced_low": low, "sliced_high": high}
    return row | ({"rms": rms(x, known.ends)} if deterministic else {})


def drawn(model: sd.Model, exact: Any, solver: Any, grid: Any) -> np.ndarray:
    made = sd.sample(jax.random.key(3), model, (NUM, *exact.event), solver=solver, grid=grid)
    return np.asarray(made.x)


def of_student(model: sd.Model, method: Method, exact: Any, known: Truth) -> dict[str, Any]:
    x, t, s, mapped = known.map
    row: dict[str, Any] = {"map": rms(jax.jit(model.flow_map)(x, t, s).x, mapped)}
    for nfe in BUDGETS:
        for gamma in sorted({0.0, method.gamma}):
            grid = grids.karras(model.sde, nfe)
            made = drawn(model, exact, samplers.FlowMap(gamma=gamma), grid)
            row[f"{nfe} gamma={gamma:g}"] = measured(made, known, gamma == 0.0 or nfe == 1)
    return row


def of_standard(exact: Any, sde: sd.SDE, known: Truth, nfe: int) -> dict[str, Any]:
    """The standard solver that is nearest to the exact ends, and its row."""
    model, tried = exact.model(sde), {}
    for name in ("ddim", "dpmpp_2m", "unipc", "deis"):
        for grid_name in ("karras", "log_snr", "uniform"):
            grid = grids.named(grid_name, sde, nfe - 1)
            x = drawn(model, exact, samplers.named(name), grid)
            tried[f"{name} on {grid_name}"] = measured(x, known, True)
    best = min(tried, key=lambda name: tried[name]["rms"])
    return {"by": best, f"{nfe}": tried[best]}


def of_fitted(exact: Any, sde: sd.SDE, known: Truth, nfe: int, seconds: float) -> dict[str, Any]:
    """The row of a solver that is fitted to the exact model in so many seconds."""
    model = exact.model(sde)
    fitted = sd.fit(
        jax.random.key(0),
        model,
        (1024, *exact.event),
        nfe=nfe,
        seconds=seconds,
        held_out=1024,
        fine_steps=64,
        jacobian=256,
    )
    x = drawn(model, exact, fitted.solver, None)
    return {f"{nfe}": measured(x, known, True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=SETTINGS, help="all if absent")
    parser.add_argument("--budget", type=float, default=1.5e6, help="evaluations of each student")
    parser.add_argument("--methods", help="names, between commas; all if absent")
    parser.add_argument("--only", choices=("students", "solvers"), help="both if absent")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each fit, 0 for none")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="after which no further student is begun")
    args = parser.parse_args()
    began = time.monotonic()
    for problem in [args.problem] if args.problem else SETTINGS:
        if not fill(problem, args, began):
            return


def fill(problem: str, args: argparse.Namespace, began: float) -> bool:
    """Measure the rows of a problem that are missing; whether there was time for all of them."""
    setting, exact = SETTINGS[problem], PROBLEMS[problem]()
    sde = sd.EDM(t_min=setting["t_min"], t_max=setting["t_max"])
    args.out.mkdir(parents=True, exist_ok=True)
    known = truth(exact, sde, args.out / f"{problem}_truth.npz")
    path = args.out / f"{problem}.json"
    result = json.loads(path.read_text()) if path.exists() else {"students": {}, "solvers": {}}
    if "floor" not in result:
        floor = [np.asarray(exact.sample(jax.random.key(k), NUM)) for k in range(8)]
        result["floor"] = distances.floor(distances.sliced_wasserstein, floor.__getitem__, 0, 4)[0]
    result |= {"budget": args.budget, "problem": problem, "num": NUM}

    def row_of_solver(name: str) -> dict[str, Any]:
        kind, _, nfe = name.partition(", ")
        if kind == "standard":
            return of_standard(exact, sde, known, int(nfe))
        return of_fitted(exact, sde, known, int(nfe), args.seconds)

    def row_of_student(name: str) -> dict[str, Any]:
        model, steps, seconds = train(name, chosen[name], exact, sde, setting, int(args.budget))
        row = of_student(model, chosen[name], exact, known)
        return {"steps": steps, "seconds": seconds, **row}

    chosen = methods(sde, setting["sigma_data"])
    asked = []
    if args.only != "solvers":
        asked = [("students", name) for name in (args.methods or ",".join(chosen)).split(",")]
    if args.only != "students" and not args.methods:
        kinds = ("standard", "fitted") if args.seconds > 0 else ("standard",)
        asked += [("solvers", f"{kind}, {nfe}") for nfe in (2, 4) for kind in kinds]
    for group, name in asked:
        if name in result[group]:
            continue
        if args.minutes is not None and time.monotonic() - began > 60.0 * args.minutes:
            print(f"not begun: {name}; run the command again")
            return False
        result[group][name] = (row_of_student if group == "students" else row_of_solver)(name)
        print(name, json.dumps(result[group][name]), flush=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        jax.clear_caches()
    return True


if __name__ == "__main__":
    main()
