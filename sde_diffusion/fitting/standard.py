"""Starting points of a fit: standard solvers on standard grids, as parameters of the family."""

from functools import partial

import jax
import jax.numpy as jnp

from sde_diffusion import grids
from sde_diffusion.fitting import family
from sde_diffusion.samplers import DDIM, DEIS, DPMSolverPP2M, Solver, UniPC
from sde_diffusion.sdes import SDE, Array

# These solvers on these grids, with and without a last evaluation that denoises. A grid starts at
# t_max, or after a share SKIPPED of the whole change in lambda.
SOLVERS: dict[str, Solver] = {
    "unipc": UniPC(),
    "deis": DEIS(),
    "dpmpp_2m": DPMSolverPP2M(),
    "ddim": DDIM(),
}
GRIDS = ("log_snr", "karras", "quadratic", "uniform", "cosine")
SKIPPED = (0.0, 0.15, 0.3)


def candidates(
    sde: SDE, nfe: int, solver: Solver | None, t_min: float | None = None
) -> tuple[family.Make, dict[str, Array]]:
    """The family of solvers that theta parametrizes, and the thetas of standard solvers by name."""
    if solver is None:
        make = family.multistep(nfe, t_min)
        made: dict[str, Array] = {}
        for denoise_last, told in ((True, ""), (False, ", not denoised")):
            times = _standard_times(sde, nfe - denoise_last, t_min)
            stacked = jnp.stack(list(times.values()))
            for name, standard in SOLVERS.items():
                thetas = _thetas(standard, sde, stacked, denoise_last, t_min)
                named = (f"{name} on {grid}{told}" for grid in times)
                made |= dict(zip(named, thetas, strict=True))
        return make, made
    if solver.stochastic or solver.adaptive:
        raise ValueError(
            f"only a deterministic solver that steps along a grid can be fitted, got {solver}"
        )
    denoises = 0 if solver.denoises else 1
    extra = denoises + solver.extra_evaluations
    steps, rest = divmod(nfe - extra, solver.evaluations)
    if rest or not steps:
        raise ValueError(
            f"{type(solver).__name__} takes {solver.evaluations} evaluations a step"
            f"{' and one more in the first' * solver.extra_evaluations}"
            f"{' and one to denoise' * denoises}, got nfe={nfe}"
        )
    times = _standard_times(sde, steps, t_min)
    return family.grid_of(solver, t_min), {
        f"its {name} grid": family.logits_of(sde, at, t_min) for name, at in times.items()
    }


def _standard_times(sde: SDE, steps: int, t_min: float | None) -> dict[str, Array]:
    """The times of GRIDS by name, once from t_max and once for each share SKIPPED."""
    low, high = family.ends(sde, t_min)
    made = {}
    for share in SKIPPED:
        start = float(sde.t_of_log_snr(low + share * (high - low))) if share else sde.t_max
        for name in GRIDS:
            # At t = 1 Flow's log-SNR is infinite, which these two grids cannot start from.
            if jnp.isfinite(sde.log_snr(start)) or name not in ("log_snr", "karras"):
                told = f"{name} from t = {start:.3g}" if share else name
                made[told] = grids.named(name, sde, steps, t_min=t_min, t_max=start)
    return made


@partial(jax.jit, static_argnames=("solver", "denoise_last", "t_min"))
def _thetas(
    solver: Solver, sde: SDE, times: Array, denoise_last: bool, t_min: float | None
) -> Array:
    as_multistep = partial(family.as_multistep, solver, sde, denoise_last=denoise_last, t_min=t_min)
    return jax.vmap(as_multistep)(times)
