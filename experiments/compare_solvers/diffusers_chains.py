"""Our solvers on published chains beside diffusers' schedulers, given the same model and noise.

    pip install '.[bench]'
    python experiments/compare_solvers/diffusers_chains.py [--write]

Each case is a scheduler of diffusers with its options; `Case` says which grid and which
`denoise_last` of ours stand for these. The model is exact, a mixture of three Gaussians; both start
at the same x and draw the same noise. The table holds the largest difference over samples and
coordinates.

--write leaves diffusers' samples in tests/reference/diffusers/chains.npz, which a test compares
ours with, where diffusers is not installed.
"""

import argparse
import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import standard

import sde_diffusion as sd
from sde_diffusion import grids, noise, samplers
from sde_diffusion.samplers.solver import Counted
from sde_diffusion.sdes import tabulated

REFERENCE = Path(__file__).parents[2] / "tests" / "reference" / "diffusers" / "chains.npz"
STARTS = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
NOISE = np.random.default_rng(1).standard_normal((20, *STARTS.shape)).astype(np.float32)
MEANS, STD = np.array([[0.9, -0.6], [-1.1, 0.2], [0.3, 1.2]]), 0.3

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
CHAINS = {"linear": LINEAR, "scaled_linear": STABLE_DIFFUSION, "squared_cosine": COSINE}


DDIM, DDPM = samplers.DDIM(), samplers.Ancestral()
DPMPP, DPMPP_3M = samplers.DPMSolverPP2M(), samplers.DPMSolverPP3M()
UNIPC = samplers.UniPC()


@dataclasses.dataclass(frozen=True)
class Case:
    """A scheduler of diffusers with its `options`, n inference `steps`, and our solver for it."""

    scheduler: str
    solver: samplers.Solver
    chain: str
    spacing: str
    steps: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        told = [f"{key}={value}" for key, value in self.options.items()]
        return ", ".join([self.scheduler, self.chain, self.spacing, str(self.steps), *told])

    @property
    def denoise_last(self) -> bool:
        """Whether its last step goes to the data, and not to the chain's first time."""
        options = {"set_alpha_to_one": True, "final_sigmas_type": "zero", **self.options}
        return options["set_alpha_to_one"] and options["final_sigmas_type"] == "zero"

    @property
    def sde(self) -> sd.Tabulated:
        zero_snr = self.options.get("rescale_betas_zero_snr", False)
        made = tabulated(self.chain, zero_terminal_snr=zero_snr)
        if not zero_snr or self.scheduler in ("DDIM", "DDPM"):
            return made
        # They have 2^-24 in place of 0, which is above the values before it. Those are moved here,
        # as no grid uses them.
        square = np.asarray(made.alphas) ** 2
        square[-20:] = np.geomspace(square[-21], 2.0**-24, 21)[1:]
        return sd.Tabulated.from_alphas_cumprod(square)

    @property
    def grid(self) -> jax.Array:
        """Our times: n steps, or n - 1 before the evaluation that denoises."""
        fields: dict[str, Any] = {}
        if self.spacing == "leading":
            fields["steps_offset"] = self.options.get("steps_offset", 0)
        if self.scheduler == "DPMSolverMultistep" and self.spacing != "trailing":
            # It divides the chain by n + 1, and leaves out the first of these times.
            made = grids.named(self.spacing, self.sde, self.steps, **fields)
            return made[:-1] if self.denoise_last else made
        # With leading and no offset, the n times end at the chain's first already.
        to_first = not self.denoise_last and fields.get("steps_offset") != 0
        if to_first:
            fields["to_first"] = True
        return grids.named(self.spacing, self.sde, self.steps - 1 + to_first, **fields)


TO_FIRST = {"set_alpha_to_one": False}
FIRST = {"final_sigmas_type": "sigma_min"}
OFFSET = {"steps_offset": 1}
ORDER_3 = {"solver_order": 3}
ZERO_SNR = {"rescale_betas_zero_snr": True}

CASES = [
    Case("DDIM", DDIM, "linear", "leading", 10),
    Case("DDIM", DDIM, "scaled_linear", "leading", 10, TO_FIRST | OFFSET),
    Case("DDIM", DDIM, "linear", "leading", 10, TO_FIRST),
    Case("DDIM", DDIM, "squared_cosine", "trailing", 10),
    Case("DDIM", DDIM, "scaled_linear", "trailing", 10, TO_FIRST),
    Case("DDIM", DDIM, "scaled_linear", "trailing", 20, ZERO_SNR),
    Case("DDPM", DDPM, "linear", "leading", 10),
    Case("DDPM", DDPM, "scaled_linear", "trailing", 7),
    Case("DDPM", DDPM, "linear", "linspace", 8),
    Case(
        "DDPM",
        samplers.Ancestral(variance="forward"),
        "squared_cosine",
        "leading",
        20,
        {"variance_type": "fixed_large"},
    ),
    Case("EulerDiscrete", DDIM, "scaled_linear", "leading", 10, OFFSET),
    Case("EulerDiscrete", DDIM, "linear", "trailing", 7, FIRST),
    Case("EulerDiscrete", DDIM, "linear", "linspace", 10),
    Case("EulerAncestralDiscrete", samplers.DDIM(eta=1.0), "scaled_linear", "trailing", 10),
    Case("DPMSolverMultistep", DPMPP, "scaled_linear", "leading", 10, OFFSET),
    Case("DPMSolverMultistep", DPMPP, "linear", "trailing", 20),
    Case("DPMSolverMultistep", DPMPP, "squared_cosine", "linspace", 10),
    Case("DPMSolverMultistep", DPMPP, "linear", "linspace", 20, FIRST),
    Case("DPMSolverMultistep", DPMPP, "linear", "trailing", 20, ZERO_SNR),
    Case("DPMSolverMultistep", DPMPP, "scaled_linear", "trailing", 10, FIRST),
    Case("DPMSolverMultistep", DPMPP_3M, "scaled_linear", "trailing", 10, FIRST | ORDER_3),
    Case("UniPCMultistep", UNIPC, "scaled_linear", "trailing", 10, FIRST | ORDER_3),
    Case("UniPCMultistep", UNIPC, "linear", "trailing", 20, FIRST | ORDER_3),
    Case("UniPCMultistep", UNIPC, "linear", "trailing", 20, ORDER_3),
]


@functools.cache
def exact_model(sde: sd.Tabulated) -> sd.Model:
    """The mixture's model, by v, which exists where alpha = 0."""
    exact = sd.analytic.GaussianMixture.of(jnp.asarray(MEANS), jnp.asarray(STD)).model(sde)
    return sd.from_v(sde, lambda x, t: exact(x, t).v)


def ours(case: Case) -> np.ndarray:
    """Our samples [6, 2]."""
    model = exact_model(case.sde)
    times, x = case.grid, jnp.asarray(STARTS)
    if not case.solver.stochastic:
        made = sd.sample(
            jax.random.key(0),
            model,
            x.shape,
            solver=case.solver,
            grid=times,
            x_init=x,
            denoise_last=case.denoise_last,
        )
        return np.asarray(made.x)
    state = case.solver.init(x, times)
    with mock.patch.object(noise, "normal", lambda key, like: key):  # the noise itself for a key
        for z, t, s in zip(jnp.asarray(NOISE), times, times[1:], strict=False):
            state = case.solver.step(z, Counted(model), state, t, s)
    return np.asarray(model(state.x, times[-1]).x0 if case.denoise_last else state.x)


def theirs(case: Case) -> np.ndarray:
    """diffusers' samples [6, 2], of the scheduler in float64 where it keeps that."""
    import diffusers
    import torch

    fields = {**CHAINS[case.chain], "timestep_spacing": case.spacing, **case.options}
    if case.scheduler in ("DDIM", "DDPM"):
        fields["clip_sample"] = False
    fields["prediction_type"] = "v_prediction"
    scheduler = getattr(diffusers, f"{case.scheduler}Scheduler")(**fields)
    scheduler.set_timesteps(case.steps)
    table = np.asarray(case.sde.alphas, np.float64) ** 2
    euler = case.scheduler.startswith("Euler")  # keeps x / alpha
    ratios = np.asarray(scheduler.sigmas, np.float64) if hasattr(scheduler, "sigmas") else None
    x = torch.tensor(STARTS, dtype=torch.float64)
    if euler:
        x = x * np.sqrt(1.0 + ratios[0] ** 2)
    drawn = iter(torch.tensor(NOISE, dtype=torch.float64))
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    patched = hasattr(module, "randn_tensor")
    normal = mock.patch.object(module, "randn_tensor", side_effect=lambda *_, **__: next(drawn))
    with normal if patched else contextlib.nullcontext():
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t)
            v = velocity(np.asarray(seen), table[int(t)])
            x = scheduler.step(torch.tensor(v), t, x).prev_sample.to(torch.float64)
    made = np.asarray(x)
    return made / np.sqrt(1.0 + ratios[-1] ** 2) if euler else made


def velocity(x: np.ndarray, alpha_square: float) -> np.ndarray:
    """v = alpha eps - sigma x0 of the mixture at noisy x [6, 2]."""
    alpha, sigma = np.sqrt(alpha_square), np.sqrt(1.0 - alpha_square)
    variance = alpha_square * STD**2 + sigma**2
    apart = x[:, None] - alpha * MEANS
    log_weight = -0.5 * np.sum(apart**2, axis=-1) / variance
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    means = MEANS + alpha * STD**2 / variance * apart
    x0 = np.sum(weight[..., None] * means, axis=1)
    eps = np.sum(weight[..., None] * sigma / variance * apart, axis=1)
    return alpha * eps - sigma * x0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    made = {case.name: theirs(case) for case in CASES}
    rows = [
        {
            "scheduler": case.name,
            "ours": repr(case.solver),
            "difference": float(np.max(np.abs(ours(case) - made[case.name]))),
        }
        for case in CASES
    ]
    print(standard.table(rows))
    if args.write:
        REFERENCE.parent.mkdir(parents=True, exist_ok=True)
        samples = np.stack(list(made.values())).astype(np.float32)
        np.savez_compressed(REFERENCE, names=list(made), samples=samples)


if __name__ == "__main__":
    main()
