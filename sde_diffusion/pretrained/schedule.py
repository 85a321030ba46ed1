"""A scheduler's config as an SDE, with the solver and the grid that it stands for.

The chain becomes a `Tabulated` SDE, and what the network predicts a parameterization. A scheduler's
n inference steps are n evaluations of the network: n - 1 steps of ours and the evaluation that
denoises after them, or n steps where the scheduler ends at the first time of the chain and keeps
its noise. Where the steps do not divide the chain, DDIMScheduler with "trailing" steps to times
that differ by one from those that it evaluates; ours are the same.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from sde_diffusion import grids, samplers, selection
from sde_diffusion.parameterization import PARAMETERIZATIONS, Parameterization
from sde_diffusion.samplers import Solver
from sde_diffusion.sdes import Tabulated
from sde_diffusion.sdes.tabulated import tabulated
from sde_diffusion.selection import choose

Config = Mapping[str, Any]

ORIGIN = 50  # of LCMScheduler
BETAS = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "squared_cosine",
}
PREDICTIONS = {"epsilon": "ddpm", "v_prediction": "v"}
"""What a network predicts, as `parameterization.PARAMETERIZATIONS` has it."""
VARIANCES = {"fixed_small": "posterior", "fixed_small_log": "posterior", "fixed_large": "forward"}
SPACINGS = {"leading": "leading", "trailing": "trailing", "linspace": "linspace"}


class Scheduler(NamedTuple):
    """A class of diffusers: its solver, its defaults, and how it divides the chain.

    solver: config -> our solver.
    spacing: the default of timestep_spacing.
    last: the field that says whether the last step goes to the data; where none does, it goes.
        Fields of other schedulers may be in the config too, which diffusers ignores.
    to_data: the default of that field.
    maps: whether the network is a consistency model, whose times are a part of those of
        `original_inference_steps`.
    extra: whether the chain is divided by n + 1 where the spacing is not "trailing".
    rounds: whether "linspace" rounds to times of the chain.
    clips: the default of clip_sample.
    """

    solver: Callable[[Config], Solver]
    spacing: str
    last: str | None = None
    to_data: bool = True
    extra: bool = False
    rounds: bool = True
    clips: bool = False
    maps: bool = False


def _dpm_solver(config: Config) -> Solver:
    algorithm = config.get("algorithm_type", "dpmsolver++")
    order = config.get("solver_order", 2)
    kinds: dict[Any, type[Solver]] = {
        ("dpmsolver++", 1): samplers.DDIM,
        ("dpmsolver++", 2): samplers.DPMSolverPP2M,
        ("dpmsolver++", 3): samplers.DPMSolverPP3M,
        ("sde-dpmsolver++", 2): samplers.SDEDPMSolverPP2M,
    }
    if (algorithm, order) not in kinds:
        known = ", ".join(f"{name} of order {k}" for name, k in kinds)
        raise ValueError(f"{algorithm} of order {order} is not supported (choices: {known})")
    return kinds[algorithm, order]()


def _ancestral(config: Config) -> Solver:
    kind = config.get("variance_type", "fixed_small")
    return samplers.Ancestral(choose("variance_type", kind, VARIANCES))


def _plms(config: Config) -> Solver:
    # The values that are combined are the network's own.
    return samplers.PLMS("v" if config.get("prediction_type") == "v_prediction" else "eps")


ALPHAS, SIGMAS = "set_alpha_to_one", "final_sigmas_type"
SCHEDULERS = {
    "DDIMScheduler": Scheduler(lambda _: samplers.DDIM(), "leading", ALPHAS, clips=True),
    "PNDMScheduler": Scheduler(_plms, "leading", ALPHAS, to_data=False),
    "DDPMScheduler": Scheduler(_ancestral, "leading", clips=True),
    "EulerDiscreteScheduler": Scheduler(
        lambda _: samplers.DDIM(), "linspace", SIGMAS, rounds=False
    ),
    "EulerAncestralDiscreteScheduler": Scheduler(
        lambda _: samplers.DDIM(eta=1.0), "linspace", rounds=False
    ),
    "DPMSolverMultistepScheduler": Scheduler(_dpm_solver, "linspace", SIGMAS, extra=True),
    "LCMScheduler": Scheduler(lambda _: samplers.FlowMap(gamma=1.0), "leading", ALPHAS, maps=True),
    "UniPCMultistepScheduler": Scheduler(
        lambda config: samplers.UniPC(p=config.get("solver_order", 2)),
        "linspace",
        SIGMAS,
        extra=True,
    ),
}
"""Euler's step in sigma / alpha is DDIM's, so it has the same solver. PNDM is without Runge-Kutta
steps, which `skip_prk_steps` says."""

FIXED = {
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
    "solver_type": ("midpoint", "bh2"),
    "predict_x0": (True,),
    "thresholding": (False,),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "skip_prk_steps": (True,),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "euler_at_final": (False,),
    "lower_order_final": (True,),
}
"""Fields of which these values are supported; where one is absent it has such a value."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The SDE of a scheduler, what the network predicts, and how it samples by default.

    clip: the predicted x0 is clipped to [-clip, clip]; None where it is not.
    """

    sde: Tabulated
    parameterization: Parameterization
    solver: Solver
    spacing: str
    steps_offset: int
    to_data: bool
    extra: bool
    karras: bool
    clip: float | None = None
    origin: int | None = None  # the steps that a consistency model was distilled from

    def grid(self, steps: int, size: tuple[int, int] | None = None) -> tuple[jax.Array, bool]:
        """The times for `steps` inference steps, and whether an evaluation denoises after them.

        They do not depend on the size of the picture.

        Raises ValueError for a number of steps that the chain does not have.
        """
        if self.origin is not None:
            return consistency_times(self.sde, steps, self.origin), True
        if steps < 2:
            raise ValueError(f"a sample takes at least 2 steps, got {steps}")
        if self.karras:
            start = None if self.extra else float(self._spaced(steps)[0][0])
            return grids.karras(self.sde, steps - 1, t_max=start), True
        return self._spaced(steps)

    def _spaced(self, steps: int) -> tuple[jax.Array, bool]:
        fields: dict[str, Any] = {}
        if self.spacing == "leading":
            fields["steps_offset"] = self.steps_offset
        if self.extra and self.spacing != "trailing":
            made = grids.named(self.spacing, self.sde, steps, **fields)
            return (made[:-1], True) if self.to_data else (made, False)
        # Without an offset, the times of "leading" and "linspace" end at the chain's first already.
        ends = self.spacing in ("linspace", "uniform") or fields.get("steps_offset") == 0
        to_first = not self.to_data and not ends
        if to_first:
            fields["to_first"] = True
        return grids.named(self.spacing, self.sde, steps - 1 + to_first, **fields), self.to_data


def consistency_times(sde: Tabulated, steps: int, origin: int = ORIGIN) -> jax.Array:
    """The times of a consistency model on a chain, [steps + 1], from its last to its first.

    They are evenly taken from the last times of `origin` equal parts of the chain, as
    LCMScheduler's. Raises ValueError for more steps than these.
    """
    if not 1 <= steps <= origin:
        raise ValueError(f"a consistency model on {origin} times takes 1 to {origin}: {steps}")
    parts = np.arange(1, origin + 1) * (sde.num_scales // origin) - 1
    chosen = np.floor(np.linspace(0, origin, steps, endpoint=False)).astype(int)
    return jax.numpy.asarray([*parts[::-1][chosen], 0], jax.numpy.float32)


def read_schedule(config: Config, source: str = "scheduler_config.json") -> Schedule:
    """The schedule of a scheduler's config, as diffusers writes it.

    Raises ValueError, which begins with `source`, for what is not supported.
    """
    try:
        return _read(config)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _read(config: Config) -> Schedule:
    kind = choose("scheduler", config.get("_class_name", "none"), SCHEDULERS)
    for name, values in FIXED.items():
        if name in config and config[name] not in values:
            raise ValueError(f"{name} = {config[name]!r} is not supported (only {values[0]!r})")
    clips = bool(config.get("clip_sample", kind.clips))
    if clips and config["_class_name"] != "DDPMScheduler":
        # They clip x0 and keep the eps that belongs to another x0, which no model predicts.
        raise ValueError("clip_sample = true is not supported: set it to false")
    spacing = choose("timestep_spacing", config.get("timestep_spacing", kind.spacing), SPACINGS)
    prediction = config.get("prediction_type", "epsilon")
    to_data = kind.last is None or config.get(kind.last, kind.to_data) in (True, "zero")
    karras = kind.last == SIGMAS and bool(config.get("use_karras_sigmas", False))
    if karras and not to_data:
        raise ValueError("use_karras_sigmas with final_sigmas_type = 'sigma_min' is not supported")
    sde = _sde(config)
    return Schedule(
        sde,
        selection.build(
            "parameterization",
            choose("prediction_type", prediction, PREDICTIONS),
            PARAMETERIZATIONS,
            {"num_scales": sde.num_scales},
        ),
        kind.solver(config),
        "uniform" if spacing == "linspace" and not kind.rounds else spacing,
        config.get("steps_offset", 0),
        to_data,
        kind.extra,
        karras,
        config.get("clip_sample_range", 1.0) if clips else None,
        config.get("original_inference_steps", ORIGIN) if kind.maps else None,
    )


def chain(config: Config) -> tuple[str, dict[str, Any]]:
    """The name and the fields of `sdes.tabulated` for the betas of a scheduler's config.

    Raises ValueError where the betas are listed themselves.
    """
    if config.get("trained_betas") is not None:
        raise ValueError("trained_betas are not betas of a schedule")
    name = choose("beta_schedule", config.get("beta_schedule", "linear"), BETAS)
    ends = {} if name == "squared_cosine" else {"beta_start": 1e-4, "beta_end": 0.02}
    return name, {
        "num_scales": config.get("num_train_timesteps", 1000),
        **{end: config.get(end, default) for end, default in ends.items()},
        "zero_terminal_snr": bool(config.get("rescale_betas_zero_snr", False)),
    }


def _sde(config: Config) -> Tabulated:
    if config.get("trained_betas") is not None:
        made = Tabulated.from_betas(config["trained_betas"])
        return made.with_zero_terminal_snr() if config.get("rescale_betas_zero_snr") else made
    name, fields = chain(config)
    return tabulated(name, **fields)
