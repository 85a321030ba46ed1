"""Writes docs/solvers.md: every solver with its declared and its measured order.

python experiments/solver_orders/table.py [--out docs/solvers.md] [--sdes vp,ve,flow]
"""

import argparse
import inspect
import itertools
import re
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import orders
from tqdm import tqdm

import sde_diffusion as sd
from sde_diffusion import noise, samplers
from sde_diffusion.comparison.candidates import parse
from sde_diffusion.samplers import Solver
from sde_diffusion.sdes import KINDS, Array

# Beside each solver as it is by default, those of its fields that change the order.
VARIANTS = (
    "deis(order=1)",
    "deis(order=2)",
    "ipndm(order=2)",
    "ipndm(order=3)",
    "unipc(p=1)",
    "unipc(p=2)",
    "unipc(p=2,variant='bh1')",
    "unipc(p=1,corrector=False)",
    "unipc(p=2,corrector=False)",
    "unipc(p=3,corrector=False)",
    "ddim(eta=0.5)",
    "ddim(eta=1.0)",
    "ancestral(variance='forward')",
    "edm(churn=0.1)",
    "sa_solver(p=1,corrector=False)",
    "sa_solver(tau=0.0)",
    "dpm_adaptive(order=2)",
    "ode(method='dopri5')",
    "ode(method='dopri8')",
    "ode(method='kvaerno5')",
)
VP, GRID = sd.VP(), jnp.linspace(0.9, 0.1, 17)
TIMES = GRID[:6]
HEAD = """# Orders of the solvers

`python experiments/solver_orders/table.py` writes this page; the tests measure the orders again.

The tables hold the declared order of each solver beside the measured one. The measured order is the
slope of the error over the number of steps, in float64, on steps equal in the log-SNR from -1.5 to
1.5. It is given as the range over the SDEs named at the end. How it is measured:

- A deterministic solver is applied to a mixture of Gaussians, and its end is compared with a
  solution of tolerance 1e-10. A multistep method gets exact starting values.
- The weak order of a stochastic solver is that of the variance of its samples of a Gaussian, which
  is carried through the steps exactly.
- The strong order is that of the distance to a fine solution on the same Brownian paths.

[`orders.py`](../experiments/solver_orders/orders.py) has the code. A strong order of "-" means that
the solver adds noise other than the reverse SDE's, so it does not follow the same path. An order of
0 means that the error does not fall with more steps; the docstring of the class says why.

`evaluations` is the number for one step; `sample` makes one more, which denoises. `draws on` lists
what a step uses: random numbers, each of the sample's shape, and the values of earlier steps. A
solver works on every SDE unless its row says otherwise. Some numbers of equations and algorithms
(in DEIS, PNDM, UniPC, RES, SA-Solver, SEEDS, ParaDiGMS, DPM-Solver++, and Hochbruck & Ostermann
2005) are taken from the authors' code or from other public code that cites them.
"""
ADAPTIVE = """
## Adaptive

These solvers choose the step size of each sample by a tolerance, which their tests measure. `draws
on` belongs to one attempted step.
"""
CORRECTORS = """
## Correctors

The step of a corrector stays at time t, so it has no order in the steps of the grid. Its `order` is
that of the error in the distribution p_t, which it should leave unchanged, in the size of its own
step. MALA has no such error, because it accepts or rejects each step. A `PredictorCorrector` has
the order of its predictor.
"""
PARALLEL = """
## Parallel in time

`ParaDiGMS` computes the steps of another solver, and has its order. The result agrees with that of
the other solver up to a tolerance, which its tests measure.
"""
ENDS = ["evaluations", "draws on", "SDEs", "source"]


def name_of(solver: Solver) -> str:
    return type(solver).__name__


def source(solver: Solver) -> str:
    """The sentence of the docstring that names a paper, from the first author on, or some code."""
    text = " ".join((inspect.getdoc(type(solver)) or "").split())
    name = r"[A-Z][\w\u00c0-\u017f-]+"
    found = re.search(rf"{name}(?: & {name}| et al\.)? (?:18|19|20)\d\d", text)
    if not found:
        code = re.search(r"`\w+` of k-diffusion", text)
        return code[0] if code else "textbook"
    sentence = re.split(r"\. (?=[A-Z][a-z]* )", text[found.start() :])[0].rstrip(".")
    # Up to a parenthesis that was opened before.
    depth = list(itertools.accumulate((c == "(") - (c == ")") for c in sentence))
    return sentence[: depth.index(-1)] if -1 in depth else sentence


def excluded(solver: Solver) -> str:
    """The SDEs from whose own start the solver makes no samples."""
    names = [f"{name} from t_max" for name in KINDS if not starts(solver, KINDS[name]())]
    return f"not {', '.join(names)}" if names else "all"


def starts(solver: Solver, sde: sd.SDE) -> bool:
    """Whether the solver is let start at t_max and, where lambda is infinite, steps are finite."""
    grid = sd.grids.uniform(sde, 1 if solver.adaptive else 3)
    try:
        samplers.check(solver, sde, grid)
    except ValueError:
        return False
    if np.isfinite(sde.log_snr(grid[0])):
        return True
    state = solver.init(sde.sigma(grid[0]) * jnp.ones((1, 2)), grid)
    return bool(np.all(np.isfinite(walk(solver, state, grid, sde).x)))


def walk(solver: Solver, state: Any, times: Array, sde: sd.SDE = VP) -> Any:
    """The state after a step from each of the times to the next."""
    keys, model = noise.sample_keys(jax.random.key(0), 1), orders.MIXTURE.model(sde)
    for t, s in itertools.pairwise(times):
        state = solver.step(keys, samplers.Counted(model), state, t, s)
    return state


def draws_on(solver: Solver) -> str:
    """What a step asks of its key, and of how many steps before it reads the values."""
    before = values_before(solver)
    parts = draws(solver) if solver.stochastic else []
    if before:
        parts.append(f"{solver.view} of {before} step{'s' * (before > 1)} before")
    return ", ".join(parts) if parts else "nothing"


def draws(solver: Solver) -> list[str]:
    """The random numbers of a step, counted where they are drawn."""
    counts = dict.fromkeys(("Gaussian", "increment of a Brownian path", "uniform number"), 0)

    def counted(name, draw):
        def count_and_draw(*args, **kwargs):
            counts[name] += 1
            return draw(*args, **kwargs)

        return count_and_draw

    draw_normal, draw_increments, draw_uniform = map(
        counted, counts, (noise.normal, noise.increments, jax.random.uniform)
    )
    with (
        mock.patch.object(noise, "normal", draw_normal),
        mock.patch.object(noise, "increments", draw_increments),
        mock.patch.object(jax.random, "uniform", draw_uniform),
    ):
        jax.eval_shape(lambda x: walk(solver, solver.init(x, GRID), TIMES[:2]), jnp.ones((1, 2)))
    return [f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count]


def values_before(solver: Solver) -> int:
    """How many of the arrays that the state holds beside the sample the next one depends on."""
    x = jnp.ones((1, 2))
    state = solver.init(x, GRID)
    held = [leaf.shape == x.shape and leaf is not x for leaf in jax.tree.leaves(state)]
    if not any(held):
        return 0
    state = walk(solver, state, TIMES[:-1])

    def last(state: Any) -> Array:
        return jnp.sum(walk(solver, state, TIMES[-2:]).x)

    slopes = jax.tree.leaves(jax.grad(last, allow_int=True)(state))
    return sum(bool(jnp.any(slope != 0.0)) for slope in itertools.compress(slopes, held))


def span(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"


def strong(solver: Solver, sdes: list[sd.SDE]) -> list[str]:
    """The strong order, declared and measured; of less noise than the reverse SDE's own, dashes."""
    noise = getattr(solver, "eta", getattr(solver, "tau", 1.0))
    if solver.strong_order is None or noise != 1.0:
        return ["-", "-"]
    return [str(solver.strong_order), span([orders.strong_order(solver, sde) for sde in sdes])]


def row(label: str, solver: Solver, measured: list[str]) -> list[str]:
    cells = [f"`{label}`", f"`{name_of(solver)}`", str(solver.order), *measured]
    by_tolerance = solver.adaptive or isinstance(solver, samplers.ParaDiGMS)
    first = f", {solver.evaluations + solver.extra_evaluations} in the first"
    evaluations = f"{solver.evaluations}{first * bool(solver.extra_evaluations)}"
    evaluations = "by tolerance" if by_tolerance else evaluations
    return [*cells, evaluations, draws_on(solver), excluded(solver), source(solver)]


def measured(solver: Solver, sdes: list[sd.SDE]) -> list[str]:
    if solver.adaptive:
        return []
    if solver.stochastic:
        weak = span([orders.weak_order(solver, sde) for sde in sdes])
        return [weak, *strong(solver, sdes)]
    return [span([orders.global_order(solver, sde) for sde in sdes])]


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]])


def document(names: list[str]) -> str:
    """The text of docs/solvers.md, with the orders measured on the SDEs of these names."""
    sdes = [orders.SDES[name] for name in names]
    known = {name: samplers.named(name) for name in samplers.SOLVERS}
    known |= dict(parse(text, VP) for text in VARIANTS)
    rows: dict[str, list[list[str]]] = {"deterministic": [], "stochastic": [], "adaptive": []}
    for label in (bar := tqdm(sorted(known))):
        bar.set_description(label)
        solver = known[label]
        kind = "stochastic" if solver.stochastic else "deterministic"
        made = row(label, solver, measured(solver, sdes))
        rows["adaptive" if solver.adaptive else kind].append(made)
    correctors = {name: corrector() for name, corrector in samplers.CORRECTORS.items()}
    # Of its log_prob no more is read than that it is finite.
    correctors["mala(log_prob)"] = samplers.MALA(lambda x, t: -0.5 * jnp.sum(x**2, axis=-1))
    parallel = samplers.ParaDiGMS(samplers.DDIM())
    weak_and_strong = ["weak order", "measured", "strong order", "measured"]
    parts = [
        HEAD,
        "## Deterministic\n",
        table(["name", "class", "order", "measured", *ENDS], rows["deterministic"]),
        "\n## Stochastic\n",
        table(["name", "class", *weak_and_strong, *ENDS], rows["stochastic"]),
        ADAPTIVE,
        table(["name", "class", "order", *ENDS], rows["adaptive"]),
        CORRECTORS,
        table(
            ["name", "class", "order", *ENDS],
            [row(name, corrector, []) for name, corrector in correctors.items()],
        ),
        PARALLEL,
        table(["name", "class", "order", *ENDS], [row("ParaDiGMS(ddim)", parallel, [])]),
        f"\nMeasured on {', '.join(names)}.\n",
    ]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/solvers.md"))
    parser.add_argument("--sdes", default="vp,ve,flow")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(document(args.sdes.split(",")))


if __name__ == "__main__":
    main()
