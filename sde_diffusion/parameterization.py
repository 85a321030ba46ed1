"""What goes into a network and what comes out: time label, input scaling, kind, output scaling.

    prediction = c_skip(t) x + c_out(t) network(c_in(t) x, label(t))

as in Karras et al. 2022, eq. 7, with x the sample itself (alpha x0 + sigma eps, not x / alpha), so
that every coefficient stays finite where alpha vanishes.

Not every kind says something at every time: where alpha = 0, x is noise, so eps and the score are
known without the data, and log(sigma / alpha) is infinite. `require_fits` refuses these.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from sde_diffusion.sdes import SDE, Array
from sde_diffusion.sdes.base import is_known
from sde_diffusion.selection import build

Coefficient = Array | float


class Parameterization:
    """What a parameterization gives; by default the prediction is the network's output itself."""

    kind: ClassVar[str]

    def label(self, sde: SDE, t: Array) -> Array:
        """The time label that the network receives, [] or [B] like t."""
        raise NotImplementedError

    def coefficients(self, sde: SDE, t: Array) -> tuple[Coefficient, Coefficient, Coefficient]:
        """(c_in, c_skip, c_out), each [] or [B] like t."""
        return 1.0, 0.0, 1.0


@dataclasses.dataclass(frozen=True)
class _Indexed(Parameterization):
    """Labels 0 .. num_scales - 1 like DDPM's time steps, with fractions in continuous time."""

    num_scales: int = 1000

    def label(self, sde: SDE, t: Array) -> Array:
        # The factor is exactly 1 where time counts the steps of the chain, as in Tabulated.
        return t * ((self.num_scales - 1) / sde.t_max)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class DDPM(_Indexed):
    """The network gives eps. Ho et al. 2020, sec. 3.2; labels as in Song et al. 2021, app. C."""

    kind = "eps"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class V(_Indexed):
    """The network gives v = alpha eps - sigma x0. Salimans & Ho 2022, sec. 4."""

    kind = "v"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Flow(_Indexed):
    """The network gives the velocity d alpha/dt x0 + d sigma/dt eps. Lipman et al. 2023."""

    kind = "velocity"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class SMLD(_Indexed):
    """The network gives the score; labels count the noise levels downwards: 0 is sigma_max.

    Song & Ermon 2019; for the published configurations of VE in discrete time.
    """

    kind = "score"

    def label(self, sde: SDE, t: Array) -> Array:
        return jnp.round((sde.t_max - t) * (self.num_scales - 1) / sde.t_max)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NCSN(Parameterization):
    """The network gives the score; its label is sigma, whose logarithm it embeds itself.

    Song et al. 2021, app. H (NCSN++ in continuous time).
    """

    kind = "score"

    def label(self, sde: SDE, t: Array) -> Array:
        return sde.sigma(t)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class EDM(Parameterization):
    """EDM's preconditioning: unit variance in and out; the label is log(sigma / alpha) / 4.

    Karras et al. 2022, table 1, where alpha = 1; here x / alpha takes the place of x there.
    """

    kind = "x0"
    sigma_data: float = 0.5

    def label(self, sde: SDE, t: Array) -> Array:
        return -0.25 * sde.log_snr(t)

    def coefficients(self, sde: SDE, t: Array) -> tuple[Coefficient, Coefficient, Coefficient]:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        total = jnp.hypot(sigma, alpha * self.sigma_data)
        return (
            1.0 / total,
            alpha * (self.sigma_data / total) ** 2,
            sigma * self.sigma_data / total,
        )


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class X0(Parameterization):
    """The network gives x0 itself; its input has unit variance, and its label is that of EDM.

    The output need not carry noise, which has as many dimensions as the sample, so the network may
    be narrower than its patches. Li & He 2025, "Back to basics: let denoising generative models
    denoise".
    """

    kind = "x0"
    sigma_data: float = 0.5

    def label(self, sde: SDE, t: Array) -> Array:
        return -0.25 * sde.log_snr(t)

    def coefficients(self, sde: SDE, t: Array) -> tuple[Coefficient, Coefficient, Coefficient]:
        return 1.0 / jnp.hypot(sde.sigma(t), sde.alpha(t) * self.sigma_data), 0.0, 1.0


PARAMETERIZATIONS: dict[str, type[Parameterization]] = {
    "ddpm": DDPM,
    "ncsn": NCSN,
    "smld": SMLD,
    "edm": EDM,
    "x0": X0,
    "v": V,
    "flow": Flow,
}


def named(parameterization: str | Parameterization) -> Parameterization:
    """A parameterization itself, or the one of that name with its defaults."""
    if isinstance(parameterization, str):
        return build("parameterization", parameterization, PARAMETERIZATIONS, {})
    return parameterization


# Below this ratio of alpha to sigma, x - sigma eps has no digit of alpha x0 left in float32.
LEAST_SIGNAL = 1e-6


def require_fits(parameterization: Parameterization, sde: SDE) -> None:
    """Raise ValueError where the SDE has a time, t_min or t_max, that the parameterization cannot.

    The message names both and the parameterizations that fit. The times are not checked where the
    SDE's fields are traced.
    """
    reason = misfit(parameterization, sde)
    if reason is None:
        return
    fitting = [repr(name) for name, kind in PARAMETERIZATIONS.items() if not misfit(kind(), sde)]
    later = signal_at_the_end(sde) > LEAST_SIGNAL
    fitting.append(f"t_min above {sde.t_min:g}" if later else f"t_max below {sde.t_max:g}")
    raise ValueError(
        f"parameterization {_name(parameterization)!r} does not fit {type(sde).__name__}, since "
        f"{reason}: choose {' or '.join(fitting)}"
    )


def misfit(parameterization: Parameterization, sde: SDE) -> str | None:
    """Why the parameterization does not fit the SDE from t_min to t_max; None where it fits."""
    if not is_known(*jax.tree.leaves(sde)):
        return None
    kind, signal = parameterization.kind, signal_at_the_end(sde)
    if kind in ("eps", "score") and not signal > LEAST_SIGNAL:
        return (
            f"it predicts {kind}, which says nothing about the data at t_max={sde.t_max:g}, where "
            f"alpha / sigma = {signal:.1e}"
        )
    with jax.ensure_compile_time_eval():
        if kind == "score" and not float(sde.sigma(sde.t_min)) > 0.0:
            return f"it predicts the score, which is infinite at t_min={sde.t_min:g}: sigma = 0"
        for end in ("t_min", "t_max"):
            t = getattr(sde, end)
            label = float(parameterization.label(sde, jnp.asarray(t, float)))
            if not math.isfinite(label):
                return f"its time label is {label} at {end}={t:g}"
    return None


def signal_at_the_end(sde: SDE) -> float:
    """alpha / sigma at t_max, of an SDE whose fields are known numbers."""
    with jax.ensure_compile_time_eval():
        return float(sde.alpha(sde.t_max) / sde.sigma(sde.t_max))


def _name(parameterization: Parameterization) -> str:
    """What a config calls it; the name of the class for one that PARAMETERIZATIONS has not."""
    names = {kind: name for name, kind in PARAMETERIZATIONS.items()}
    return names.get(type(parameterization), type(parameterization).__name__)
