"""DDRM: sampling in the operator's singular vectors, each at its own noise level."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.inverse.measured_solver import MeasuredSolver
from sde_diffusion.inverse.measurement import Measurement
from sde_diffusion.inverse.operator import Operator
from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.solver import Counted, State
from sde_diffusion.sdes import Array
from sde_diffusion.sdes.base import require


@dataclasses.dataclass(frozen=True)
class DDRM(MeasuredSolver):
    """Steps in the singular vectors of A = U S V^T; make it by `DDRM.of(operator, event)`.

    With r = sigma_s / alpha_s and, in the coordinates of V, x0 and eps as predicted at t and
    ybar = S^-1 U^T y, which has noise of std / S, x_s / alpha_s is

        x0 + r (sqrt(1 - eta^2) eps + eta z)                               where S = 0
        x0 + r (sqrt(1 - eta^2) (ybar - x0) S / std + eta z)               where r < std / S
        (1 - eta_b) x0 + eta_b ybar + sqrt(r^2 - eta_b^2 std^2 / S^2) z    elsewhere

    A must be linear, and small enough for its matrix [M, D] and a decomposition of it. One
    evaluation a step and no backward pass. Biased: its parts are those of a variational bound, not
    of the posterior. Samples fit a measurement without noise exactly if eta_b = 1. Source: Kawar et
    al. 2022, with its values of eta and eta_b.
    """

    operator: Operator | None
    singular: Array  # [D], 0 beyond the rank
    to_measured: Array  # S^-1 U^T, [D, M], 0 beyond the rank
    basis: Array  # V, [D, D]
    eta: float = 0.85
    eta_b: float = 1.0

    order = 0
    linear_for = "DDRM"

    @classmethod
    def of(
        cls, operator: Operator, event: tuple[int, ...], eta: float = 0.85, eta_b: float = 1.0
    ) -> DDRM:
        """For samples of shape `event`; decomposes A. ValueError where A is not linear."""
        operator.require_linear("DDRM")
        u, s, vt = jnp.linalg.svd(operator.matrix(event), full_matrices=True)
        size, rank = math.prod(event), len(s)
        known = s > len(u) * jnp.finfo(s.dtype).eps * s[0]
        inverse = jnp.where(known, 1.0 / jnp.where(known, s, 1.0), 0.0)
        rest = size - rank
        singular = jnp.pad(jnp.where(known, s, 0.0), (0, rest))
        to_measured = jnp.pad(inverse[:, None] * u[:, :rank].T, ((0, rest), (0, 0)))
        return cls(operator, singular, to_measured, vt.T, eta, eta_b)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operator is None:
            raise ValueError("DDRM decomposes its operator: make it by DDRM.of(operator, event)")
        for name, value in (("eta", self.eta), ("eta_b", self.eta_b)):
            require(lambda v: 0.0 <= v <= 1.0, f"DDRM takes {name} from 0 to 1", v=value)

    @property
    def stochastic(self) -> bool:
        return True

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        _, measurement = self.measured(cond, state.x)
        sde, prediction = model.sde, model(state.x, t, measurement.cond)
        ratio = sde.sigma(s) / sde.alpha(s)
        z = noise.normal(key, state.x)
        return State(sde.alpha(s) * self._fitted(prediction, measurement, ratio, z))

    def finish(self, prediction: Prediction, operator: Operator, measurement: Measurement) -> Array:
        z = jnp.zeros_like(prediction.x)
        return self._fitted(prediction, measurement, jnp.zeros(()), z)

    def _fitted(
        self, prediction: Prediction, measurement: Measurement, ratio: Array, z: Array
    ) -> Array:
        """x_s / alpha_s at the ratio r = sigma_s / alpha_s, [B, *event]."""
        batch, event = len(z), z.shape[1:]

        def inside(x: Array) -> Array:
            return jnp.matmul(x.reshape(batch, -1), self.basis, precision="highest")

        x0, eps, z = inside(prediction.x0), inside(prediction.eps), inside(z)
        flat = measurement.y.reshape(batch, -1)
        y = jnp.matmul(flat, self.to_measured.T, precision="highest")
        measured = self.singular > 0.0
        std = measurement.std[:, None] / jnp.where(measured, self.singular, 1.0)
        kept = jnp.sqrt(1.0 - self.eta**2)
        free = x0 + ratio * (kept * eps + self.eta * z)
        noisy = x0 + ratio * (kept * (y - x0) / jnp.where(std > 0.0, std, 1.0) + self.eta * z)
        left = jnp.sqrt(jnp.maximum(ratio**2 - (self.eta_b * std) ** 2, 0.0))
        clean = (1.0 - self.eta_b) * x0 + self.eta_b * y + left * z
        made = jnp.where(measured, jnp.where(ratio < std, noisy, clean), free)
        return jnp.matmul(made, self.basis.T, precision="highest").reshape(batch, *event)
