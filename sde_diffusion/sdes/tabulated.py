"""The process of a chain of N noise levels, on which a discrete-time model was trained.

    alpha_i^2 = prod_{j <= i} (1 - beta_j),   sigma_i^2 = 1 - alpha_i^2,   i = 0, ..., N - 1    (1)

Time counts the steps of the chain: t = i is its time i, so t runs from 0 to t_max = N - 1, and the
label of a network is t itself, exactly in float32. At t = 0 the noise is sigma_0, the least that
the model knows.

Between the times of the chain alpha is a cubic spline of t, so that drift and diffusion have a
continuous derivative. Its slopes are limited to between half and twice the flatter of the two
chords that meet, which keeps alpha falling on any table (Fritsch & Carlson 1980); those of the
published schedules are not changed by it. alpha is the quantity that is smooth at both ends: near
t = 0 it differs from 1 by half the sum of the betas, and where it falls to 0 it does so with a
finite slope, while log alpha and the log-SNR are infinite. The rescaling to zero terminal SNR is
linear in alpha, so it changes nothing else.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from sde_diffusion.sdes.base import SDE, Array, Time, as_time, chain_index, chain_step, kind
from sde_diffusion.selection import choose

Table = Array | np.ndarray


@kind
class Tabulated(SDE):
    """Variance preserving, with alpha at the N times of a chain from a table, eq. (1).

    Made by `from_betas`, `from_alphas_cumprod`, or `tabulated` for a published schedule. Its
    leaves are the arrays below, of float64 as long as no transformation has rounded them, so a
    table of other values and the same length does not retrace; tables compare by their values.
    With zero terminal SNR, alpha = 0 at t_max, where drift and diffusion are infinite.
    Source of the chain: Ho et al. 2020, eq. 4.

        sde = Tabulated.from_betas(np.linspace(1e-4, 0.02, 1000))
        sde.alpha(999.0)
    """

    alphas: Table  # [N], alpha_i
    gaps: Table  # [N], 1 - alpha_i
    rates: Table  # [N], -d alpha/dt at t = i
    falls: Table  # [N - 1], alpha_i - alpha_{i+1}

    @classmethod
    def from_betas(cls, betas: ArrayLike) -> "Tabulated":
        """From beta_0, ..., beta_{N-1}, [N], each between 0 and 1; the last may be 1.

        Raises ValueError for another shape or value.
        """
        beta = _table("betas", betas)
        inside = (beta > 0.0) & (beta < 1.0)
        inside[-1] |= beta[-1] == 1.0
        if not inside.all():
            at = int(np.argmin(inside))
            raise ValueError(f"betas must lie between 0 and 1, got {beta[at]:g} at index {at}")
        with np.errstate(divide="ignore"):
            half_log = 0.5 * np.log1p(-beta)
        log_alpha = np.cumsum(half_log)
        alpha = np.exp(log_alpha)
        return _of(alpha, -np.expm1(log_alpha), alpha[:-1] * -np.expm1(half_log[1:]))

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: ArrayLike) -> "Tabulated":
        """From alpha_0^2, ..., alpha_{N-1}^2, [N], decreasing between 1 and 0; the last may be 0.

        This is `alphas_cumprod` in diffusers. Raises ValueError for another shape or value.
        """
        square = _table("alphas_cumprod", alphas_cumprod)
        if not (square[0] < 1.0 and square[-1] >= 0.0 and np.all(np.diff(square) < 0.0)):
            raise ValueError(
                "alphas_cumprod must decrease from below 1 to 0 or above, got "
                f"{np.array2string(square, threshold=8, precision=4)}"
            )
        alpha = np.sqrt(square)
        return _of(alpha, (1.0 - square) / (1.0 + alpha), -np.diff(alpha))

    def with_zero_terminal_snr(self) -> "Tabulated":
        """With alpha shifted and scaled to end at 0, from the same start.

        Lin et al. 2024, algorithm 1.
        """
        alphas, gaps, _, falls = (np.asarray(table, np.float64) for table in self._tables)
        scale = alphas[0] / (alphas[0] - alphas[-1])
        # 1 - alpha_0 is as before, and grows by what alpha falls.
        grown = np.concatenate([[0.0], np.cumsum(falls)]) * scale
        return _of((alphas - alphas[-1]) * scale, gaps[0] + grown, falls * scale)

    @property
    def num_scales(self) -> int:
        """N, the number of times of the chain."""
        return self.alphas.shape[-1]

    def alpha(self, t: Time) -> Array:
        return self._at(t)[0]

    def sigma(self, t: Time) -> Array:
        alpha, gap, _ = self._at(t)
        return jnp.sqrt(gap * (1.0 + alpha))

    def alpha_dot(self, t: Time) -> Array:
        return -self._at(t)[2]

    def sigma_dot(self, t: Time) -> Array:
        alpha, gap, rate = self._at(t)
        return alpha * rate / jnp.sqrt(gap * (1.0 + alpha))

    def f(self, t: Time) -> Array:
        alpha, _, rate = self._at(t)
        return -rate / alpha

    def diffusion(self, t: Time) -> Array:
        alpha, _, rate = self._at(t)
        return jnp.sqrt(2.0 * rate / alpha)

    def log_snr(self, t: Time) -> Array:
        alpha, gap, _ = self._at(t)
        return jnp.log(alpha) - 0.5 * jnp.log(gap * (1.0 + alpha))

    def betas(self, num_scales: int) -> Array:
        """beta_0, ..., beta_{N-1}, [N]; ValueError unless num_scales is N."""
        if num_scales != self.num_scales:
            raise ValueError(f"this chain has {self.num_scales} betas, got num_scales={num_scales}")
        alphas, falls = jnp.asarray(self.alphas), jnp.asarray(self.falls)
        later = falls * (alphas[1:] + alphas[:-1]) / alphas[:-1] ** 2
        return jnp.append(self.gaps[0] * (1.0 + alphas[0]), later)

    def discretize(self, x: Array, t: Time, num_scales: int) -> tuple[Array, Array]:
        """DDPM's chain x_{i+1} = sqrt(1 - beta_i) x_i + sqrt(beta_i) z, at the index of time t."""
        beta = self.betas(num_scales)[chain_index(t, self.t_max, num_scales)]
        return chain_step(x, beta)

    def _at(self, t: Time) -> tuple[Array, Array, Array]:
        """(alpha, 1 - alpha, -d alpha/dt) at t, each from the nearer time of the chain.

        So neither small alpha nor small 1 - alpha is the difference of larger numbers.
        """
        t = as_time(t)
        early = jnp.clip(jnp.floor(t), 0, self.num_scales - 2).astype(jnp.int32)
        u = t - early
        late = u > 0.5
        near, far = early + late, early + ~late
        distance, sign = jnp.where(late, 1.0 - u, u), jnp.where(late, -1.0, 1.0)
        rates, chord = jnp.asarray(self.rates), jnp.asarray(self.falls)[early]
        start, end = rates[near], rates[far]
        square, cube = 3.0 * chord - 2.0 * start - end, start + end - 2.0 * chord
        fall = sign * distance * (start + distance * (square + distance * cube))
        rate = start + distance * (2.0 * square + 3.0 * distance * cube)
        return jnp.asarray(self.alphas)[near] - fall, jnp.asarray(self.gaps)[near] + fall, rate

    @property
    def _tables(self) -> tuple[Table, ...]:
        return self.alphas, self.gaps, self.rates, self.falls

    def _values(self) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(value) for value in (*self._tables, self.t_min, self.t_max))

    def __eq__(self, other: object) -> bool:
        """Whether all values are equal, at the lower of the two precisions."""
        if type(other) is not type(self):
            return NotImplemented
        return all(
            a.shape == b.shape and np.array_equal(*_at_lower_precision(a, b))
            for a, b in zip(self._values(), other._values(), strict=True)
        )

    def __hash__(self) -> int:
        if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(self)):
            raise TypeError("a Tabulated that holds JAX arrays has no hash")
        return hash(tuple(value.astype(np.float32).tobytes() for value in self._values()))

    def __repr__(self) -> str:
        if isinstance(self.alphas, np.ndarray) and self.alphas.ndim == 1:
            ends = f"alpha {self.alphas[0]:.6g} to {self.alphas[-1]:.6g}"
            return f"Tabulated({self.num_scales} times, {ends})"
        return f"Tabulated(alphas={self.alphas!r})"


def _at_lower_precision(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kind = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    return a.astype(kind), b.astype(kind)


def _table(name: str, values: ArrayLike) -> np.ndarray:
    table = np.asarray(values, np.float64)
    if table.ndim != 1 or len(table) < 2:
        raise ValueError(f"{name} must be an array [N] of N >= 2 numbers, got shape {table.shape}")
    return table


def _of(alphas: np.ndarray, gaps: np.ndarray, falls: np.ndarray) -> Tabulated:
    return Tabulated(alphas, gaps, _slopes(falls), falls, t_max=float(len(falls)), t_min=0.0)


def _slopes(falls: np.ndarray) -> np.ndarray:
    """The slopes [N] of the spline through values that fall by `falls` [N - 1], limited."""
    first, last = np.concatenate([falls[:1], falls]), np.concatenate([falls, falls[-1:]])
    slopes = 0.5 * (first + last)
    if len(falls) > 2:  # at the ends, of the cubic through four values
        ends = np.array([11.0, -7.0, 2.0]) / 6.0
        slopes[0], slopes[-1] = ends @ falls[:3], ends @ falls[:-4:-1]
    # Jacobi's iteration for d_{i-1} + 4 d_i + d_{i+1} = 3 (falls_{i-1} + falls_i) halves the error.
    for _ in range(60):
        slopes[1:-1] = 0.25 * (3.0 * (falls[:-1] + falls[1:]) - slopes[:-2] - slopes[2:])
    flatter = np.minimum(first, last)
    return np.clip(slopes, 0.5 * flatter, 2.0 * flatter)


def linear(num_scales: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """DDPM's betas. Ho et al. 2020, sec. 4."""
    return np.linspace(beta_start, beta_end, num_scales)


def scaled_linear(
    num_scales: int, beta_start: float = 0.00085, beta_end: float = 0.012
) -> np.ndarray:
    """Betas whose square roots are evenly spaced: Stable Diffusion's. Rombach et al. 2022."""
    return np.linspace(beta_start**0.5, beta_end**0.5, num_scales) ** 2


def squared_cosine(num_scales: int) -> np.ndarray:
    """alpha^2 = cos^2((t + s) / (1 + s) pi / 2) with s = 0.008, each beta at most 0.999.

    Nichol & Dhariwal 2021, eq. 17.
    """
    angle = (np.arange(num_scales + 1) / num_scales + 0.008) / 1.008 * np.pi / 2
    return np.minimum(1.0 - (np.cos(angle[1:]) / np.cos(angle[:-1])) ** 2, 0.999)


SCHEDULES: dict[str, Callable[..., np.ndarray]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "squared_cosine": squared_cosine,
}


def tabulated(
    schedule: str = "linear",
    num_scales: int = 1000,
    beta_start: float | None = None,
    beta_end: float | None = None,
    zero_terminal_snr: bool = False,
) -> Tabulated:
    """The chain of a published schedule: "linear", "scaled_linear" or "squared_cosine".

    beta_start and beta_end are those of the publication where None; squared_cosine has none. With
    `zero_terminal_snr` it is rescaled as Lin et al. 2024 do.

    Raises ValueError for an unknown schedule or a number that it does not take.
    """
    ends = {"beta_start": beta_start, "beta_end": beta_end}
    given = {name: value for name, value in ends.items() if value is not None}
    make = choose("schedule", schedule, SCHEDULES)
    if given and schedule == "squared_cosine":
        raise ValueError(f"schedule 'squared_cosine' takes no {' and no '.join(given)}")
    if num_scales < 2:
        raise ValueError(f"a chain needs num_scales of at least 2, got {num_scales}")
    made = Tabulated.from_betas(make(num_scales, **given))
    return made.with_zero_terminal_snr() if zero_terminal_snr else made
