"""The problems on which solvers are compared: a model, and samples of the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from sde_diffusion.analytic import Empirical, Exact, Gaussian, GaussianMixture, Mixture, Uniform
from sde_diffusion.model import Model
from sde_diffusion.sdes import EDM, SDE, Array
from sde_diffusion.sdes.base import ends
from sde_diffusion.selection import choose


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A model to sample from, and what is known about the true distribution.

    Args:
      name: identifies the problem in the results.
      model: the `Model` that the solvers evaluate; it has the SDE.
      event: the shape of one sample.
      data: data(key, num) returns samples [num, *event] of the true distribution.
      exact: the true distribution, if it is known. Then the error of a network is separated from
        that of stopping early, and densities are compared.
      conditions: conditions(rows) returns the model's condition `cond` for the samples number
        rows [B].
      size: the number of data, if it is finite: `data` repeats none before it has drawn all.
      t_min: the time at which solvers stop, by default that of the SDE.

        Problem("mine", sde_diffusion.from_eps(sde, network), (2,), lambda key, num: x[:num])
    """

    name: str
    model: Model
    event: tuple[int, ...]
    data: Callable[[Array, int], Array]
    exact: Exact | None = None
    conditions: Callable[[np.ndarray], Any] | None = None
    size: int | None = None
    t_min: float | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 2:
            raise ValueError(f"Problem takes a size of at least 2 data, got {self.size}")
        ends(self.sde, self.t_min, None)

    @property
    def sde(self) -> SDE:
        """The model's SDE."""
        return self.model.sde

    @property
    def ends(self) -> tuple[float, float]:
        """(t_min, t_max), between which solvers run."""
        t_min, t_max = ends(self.sde, self.t_min, None)
        return float(t_min), float(t_max)

    def log_prob(self, x: Array) -> Array:
        """log p_0(x) in nats, [B]; ValueError if `exact` is not given."""
        if self.exact is None:
            raise ValueError(f"problem {self.name!r} has no exact density")
        # At t = 0, EDM has alpha = 1 and sigma = 0: p_0 is the density of the data itself.
        return self.exact.log_prob(EDM(), x, 0.0)


def exact_problem(name: str, exact: Exact, sde: SDE) -> Problem:
    """The problem whose model is the exact one of a distribution."""
    return Problem(name, exact.model(sde), exact.event, exact.sample, exact)


def gaussian() -> Gaussian:
    """A correlated Gaussian in the plane, whose flow is linear."""
    return Gaussian.of(jnp.array([0.5, -0.3]), jnp.array([[0.3, 0.2], [0.2, 0.25]]))


def mixture2d() -> GaussianMixture:
    """25 Gaussians of standard deviation 0.05 on a 5 x 5 grid of spacing 0.5 in the plane."""
    row, column = np.divmod(np.arange(25), 5)
    return GaussianMixture.of(jnp.asarray(0.5 * (np.stack([column, row], axis=-1) - 2.0)), 0.05)


def mixture64d() -> GaussianMixture:
    """10 Gaussians of standard deviation 0.2 in 64 dimensions, with means 0.6 N(0, I)."""
    means = 0.6 * np.random.default_rng(0).standard_normal((10, 64))
    return GaussianMixture.of(jnp.asarray(means), 0.2)


def crosses() -> Mixture:
    """Four long and thin Gaussians across each other in the plane."""
    angles = np.pi * np.arange(4) / 4
    axes = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    across = np.stack([-axes[:, 1], axes[:, 0]], axis=-1)
    covariances = [
        0.5**2 * np.outer(a, a) + 0.03**2 * np.outer(b, b)
        for a, b in zip(axes, across, strict=True)
    ]
    return Mixture.of(
        [
            Gaussian.of(0.6 * jnp.asarray(b), jnp.asarray(c))
            for b, c in zip(across, covariances, strict=True)
        ]
    )


def box() -> Uniform:
    """The uniform distribution on a box of 2 by 1 in the plane, whose edges are sharp."""
    return Uniform.of(np.array([-1.0, -0.5]), np.array([1.0, 0.5]))


def digits() -> Empirical:
    """The rows of scikit-learn's 1,797 digits in [-1, 1], known by heart; needs scikit-learn."""
    from sklearn.datasets import load_digits

    return Empirical(jnp.asarray(load_digits().images[..., None] / 8.0 - 1.0, jnp.float32))


PROBLEMS: dict[str, Callable[[], Exact]] = {
    "gaussian": gaussian,
    "mixture2d": mixture2d,
    "mixture64d": mixture64d,
    "crosses": crosses,
    "box": box,
    "digits": digits,
}


def named(name: str, sde: SDE) -> Problem:
    """The exact problem of that name under an SDE; ValueError lists the choices."""
    return exact_problem(name, choose("problem", name, PROBLEMS)(), sde)
