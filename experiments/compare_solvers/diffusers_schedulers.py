"""Our solvers beside diffusers' schedulers, given the same exact model, starts and evaluations.

    pip install '.[bench]'
    python experiments/compare_solvers/diffusers_schedulers.py [--num 1000] [--out DIR]

The error is the distance of a sample to where the probability flow takes its start, root mean
square over samples: RK4 in float64 from the same noise, down to t_min, and denoised there. Every
network evaluation counts. Two questions:

1. On the very times of a scheduler, what is our solver of the same name to it? Ratio of errors.
2. At an equal number of evaluations, what is our best standard solver and grid to diffusers' best?
   The last evaluation may denoise or go into one more step, as some of the schedulers have it.

--out leaves diffusers.json, the best as a table, and every pair of the first question in pairs.csv.

diffusers' discrete chain of 1,000 betas is that of VP(0.1, 20), its noise levels are continued to
EDM by giving the schedulers EDM's own.
"""

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import standard
import torch

import sde_diffusion as sd
from sde_diffusion import samplers
from sde_diffusion.comparison import problems

BUDGETS = (5, 8, 10, 15, 20)
CHAIN = {"beta_start": 1e-4, "beta_end": 2e-2, "beta_schedule": "linear"}
SPACINGS: dict[str, dict] = {
    "linspace": {"timestep_spacing": "linspace"},
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "lu": {"use_lu_lambdas": True},
}
# name: (diffusers' class, its fields, our solver of the same name, evaluations of n of its steps)
PAIRS: dict[str, tuple[str, dict, samplers.Solver | None, Callable[[int], int]]] = {
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}, samplers.DPMSolverPP2M(), lambda n: n),
    "dpmpp_2m_heun": (
        "DPMSolverMultistepScheduler",
        {"solver_type": "heun"},
        None,
        lambda n: n,
    ),
    "dpmpp_3m": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 3},
        samplers.DPMSolverPP3M(),
        lambda n: n,
    ),
    "unipc_2": (
        "UniPCMultistepScheduler",
        {"solver_order": 2},
        samplers.UniPC(p=2),
        lambda n: n,
    ),
    "unipc_2_bh1": (
        "UniPCMultistepScheduler",
        {"solver_order": 2, "solver_type": "bh1"},
        samplers.UniPC(p=2, variant="bh1"),
        lambda n: n,
    ),
    "unipc_3": (
        "UniPCMultistepScheduler",
        {"solver_order": 3},
        samplers.UniPC(p=3),
        lambda n: n,
    ),
    "deis_2": (
        "DEISMultistepScheduler",
        {"solver_order": 2},
        samplers.DEIS(order=2),
        lambda n: n,
    ),
    "deis_3": (
        "DEISMultistepScheduler",
        {"solver_order": 3},
        samplers.DEIS(order=3),
        lambda n: n,
    ),
    "heun": ("HeunDiscreteScheduler", {}, samplers.EDMSampler(), lambda n: 2 * n - 1),
    "euler": ("EulerDiscreteScheduler", {}, samplers.DDIM(), lambda n: n),
    "lms": ("LMSDiscreteScheduler", {}, None, lambda n: n),
    "dpm2": ("KDPM2DiscreteScheduler", {}, None, lambda n: 2 * n - 1),
    "singlestep_2": ("DPMSolverSinglestepScheduler", {"solver_order": 2}, None, lambda n: n),
    "singlestep_3": ("DPMSolverSinglestepScheduler", {"solver_order": 3}, None, lambda n: n),
}


class Exact:
    """A mixture in x / alpha, where every one of these SDEs is EDM: x0(y, sigma / alpha)."""

    def __init__(self, exact):
        self.exact, model = exact, exact.model(sd.EDM())
        self.denoise = jax.jit(lambda y, ratio: model(y, ratio).x0)

    def flow(self, y, high: float, low: float, steps: int = 1000):
        """RK4 on dy / d log(ratio) = y - x0 from one ratio to the other, then denoised."""

        def slope(s, y):
            return y - self.denoise(y, jnp.exp(s))

        h = (np.log(low) - np.log(high)) / steps

        def step(i, y):
            s = np.log(high) + i * h
            k1 = slope(s, y)
            k2 = slope(s + h / 2, y + h / 2 * k1)
            k3 = slope(s + h / 2, y + h / 2 * k2)
            k4 = slope(s + h, y + h * k3)
            return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

        end = jax.jit(lambda y: jax.lax.fori_loop(0, steps, step, y))(y)
        return np.asarray(self.denoise(end, low))


def scheduled(exact: Exact, sde: sd.SDE, z: np.ndarray, name: str, spacing: str, n: int):
    """What a scheduler makes in n steps; None where it does not take the spacing.

    (samples, its ratios, evaluations, and what the last of these does)
    """
    kind, fields, _, _ = PAIRS[name]
    cls = getattr(diffusers, kind)
    try:
        scheduler = cls(**CHAIN, **fields, **SPACINGS[spacing])
        scheduler.set_timesteps(n)
    except (TypeError, ValueError, IndexError):
        return None
    if any(key not in scheduler.config for key in SPACINGS[spacing]):
        return None
    if isinstance(sde, sd.EDM):
        if spacing not in ("karras", "exponential") or name == "dpm2":
            return None
        scheduler = with_ratios(scheduler, sde, spacing)
    # The multistep ones keep x of unit variance, the others x / alpha; each starts with its own.
    kept = hasattr(scheduler, "_sigma_to_alpha_sigma_t")
    ratios = np.asarray(scheduler.sigmas, np.float64)
    shrink = (lambda ratio: 1 / np.sqrt(1 + ratio**2)) if kept else (lambda ratio: 1.0)
    start = z * (ratios[0] if not kept else ratios[0] * shrink(ratios[0]))
    x, used = torch.tensor(start, dtype=torch.float64), []
    for t in scheduler.timesteps:
        index = scheduler.step_index if scheduler.step_index is not None else 0
        ratio = float(ratios[index])
        if name == "dpm2" and not scheduler.state_in_first_order:
            ratio = float(scheduler.sigmas_interpol[index])
        used.append(ratio)
        y = x.numpy() / shrink(ratio)
        eps = (y - np.asarray(exact.denoise(y, ratio))) / ratio
        x = scheduler.step(torch.tensor(eps), t, x).prev_sample
    levels = np.unique(np.append(used, ratios[ratios > 0][-1]))[::-1]
    if ratios[-1] == 0:
        last = "denoises"
    else:
        # DEIS steps down to a noise level; from that very level where its spacing ends there.
        last = "ddim" if ratios[-1] < min(used) and len(used) < 15 else "steps"
    return x.numpy(), levels, len(used), last


def with_ratios(scheduler, sde: sd.SDE, spacing: str):
    """The scheduler with its noise levels, of the same spacing, between EDM's ends."""
    given = np.asarray(scheduler.sigmas, np.float64)
    inner = np.log(given[given > 0])
    high, low = np.log(float(sde.t_max)), np.log(float(sde.t_min))
    if spacing == "karras":
        root, ends = np.exp(inner / 7), np.exp(np.array([inner[0], inner[-1]]) / 7)
        part = (root - ends[0]) / (ends[1] - ends[0])
        moved = (np.exp(high / 7) + part * (np.exp(low / 7) - np.exp(high / 7))) ** 7
    else:
        part = (inner - inner[0]) / (inner[-1] - inner[0])
        moved = np.exp(high + part * (low - high))
    scheduler.sigmas = torch.tensor(np.append(moved, given[given <= 0]), dtype=torch.float32)
    return scheduler


def ours(exact: Exact, sde: sd.SDE, z: np.ndarray, solver, times, last="denoises") -> np.ndarray:
    """Our samples from the same noise along the times, the last of few steps as DEIS makes it."""
    parts = [(solver, times)]
    if last == "ddim":
        parts = [(solver, times[:-1]), (samplers.DDIM(), times[-2:])]
    if float(times[0]) > sde.t_max:
        # The chain of 1,000 betas ends at a ratio of 157, a little beyond VP's at t = 1.
        sde = sd.VP(t_max=float(times[0]))
    x = jnp.asarray(z) * sde.sigma(times[0])
    for part, part_times in parts:
        if len(part_times) > 1:
            x = sd.sample(
                jax.random.key(0),
                exact.exact.model(sde),
                z.shape,
                solver=part,
                grid=part_times,
                x_init=x,
                denoise_last=last == "denoises",
            ).x
    return np.asarray(x)


def rms(x, y) -> float:
    return float(np.sqrt(np.mean(np.sum((np.asarray(x) - np.asarray(y)) ** 2, axis=-1))))


def study(name: str, label: str, num: int) -> tuple[list[dict], list[dict]]:
    """Rows of the first question, and of the second, for a mixture under an SDE."""
    sde, exact = standard.SDES[label], Exact(problems.PROBLEMS[name]())
    z = np.random.default_rng(1).standard_normal((num, *exact.exact.event))
    high, low = (float(jnp.exp(-sde.log_snr(t))) for t in (sde.t_max, sde.t_min))
    end = exact.flow(z * np.sqrt(high**2 if label == "edm" else 1 + high**2), high, low)
    pairs, best = [], []
    for budget in BUDGETS:
        theirs, mine = [], []
        for scheme, (_, _, solver, cost) in PAIRS.items():
            steps = max(n for n in range(1, budget + 1) if cost(n) <= budget)
            for spacing in SPACINGS:
                made = scheduled(exact, sde, z, scheme, spacing, steps)
                if made is None:
                    continue
                x, levels, calls, last = made
                assert calls <= budget, (scheme, spacing, calls)
                error = rms(x, end)
                theirs.append((error, f"{scheme}, {spacing}"))
                if solver is None or not np.isfinite(error):
                    continue
                times = sde.t_of_log_snr(-jnp.log(jnp.asarray(levels)))
                error_ours = rms(ours(exact, sde, z, solver, times, last), end)
                pairs.append(
                    {
                        "problem": name,
                        "sde": label,
                        "nfe": budget,
                        "scheduler": scheme,
                        "spacing": spacing,
                        "diffusers": error,
                        "ours": error_ours,
                        "ratio": error_ours / error,
                    }
                )
        for item in standard.deterministic(sde, budget):
            last = "denoises" if item.denoise_last else "steps"
            x = ours(exact, sde, z, item.solver, item.times, last)
            mine.append((rms(x, end), standard.told(item)))
        (error, scheme), (error_ours, solver_name) = min(theirs), min(mine)
        best.append(
            {
                "problem": name,
                "sde": label,
                "nfe": budget,
                "diffusers": error,
                "by": scheme,
                "ours": error_ours,
                "our": solver_name,
                "ratio": error_ours / error,
            }
        )
        print(best[-1], flush=True)
        # Each compiled program holds memory maps, of which Linux gives a process 65,530.
        jax.clear_caches()
    return pairs, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--problems", default="mixture2d,mixture64d")
    parser.add_argument("--sdes", default="vp,edm")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    diffusers.utils.logging.set_verbosity_error()
    pairs, best = [], []
    for name in args.problems.split(","):
        for label in args.sdes.split(","):
            more, more_best = study(name, label, args.num)
            pairs, best = pairs + more, best + more_best
    worst = [row for row in pairs if row["ratio"] > 1.02]
    print(standard.table(best))
    print(f"{len(pairs) - len(worst)} of {len(pairs)} pairs at most 1.02; above it:")
    if worst:
        print(standard.table(worst))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "diffusers.json").write_text(
            json.dumps({"same_times": pairs, "best": best}, indent=1) + "\n"
        )
        (args.out / "diffusers.md").write_text(standard.table(best))
        with (args.out / "pairs.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(pairs[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
                for row in pairs
            )


if __name__ == "__main__":
    main()
