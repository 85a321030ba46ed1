"""Problems whose posterior is known, and the methods that are held against it.

A problem has a prior with an exact Model, an operator, one measurement, and exact samples of the
posterior. Data is 8-, 2- or 64-dimensional; images of 8 x 8 pixels are rows of 64 numbers.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import sde_diffusion as sd
from sde_diffusion import inverse, samplers
from sde_diffusion.analytic import Gaussian, GaussianMixture, Mixture, on_grid, posterior

SDE = sd.VP()
STD = 0.1
LIKELIHOOD_GAMMA = 1.0


@dataclasses.dataclass(frozen=True)
class Problem:
    """`modes` maps samples [N, D] to the probabilities [N, K] of the posterior's K modes."""

    name: str
    title: str
    prior: Gaussian | Mixture
    operator: inverse.Operator
    y: jax.Array  # [*out]
    exact: Gaussian | Mixture
    modes: Callable[[np.ndarray], np.ndarray] | None
    std: float = STD

    @property
    def size(self) -> int:
        return self.prior.event[0]

    def measurement(self, num: int) -> inverse.Measurement:
        return inverse.Measurement.of(jnp.broadcast_to(self.y, (num, *self.y.shape)), self.std)


def linear(name: str, title: str, prior: Gaussian | Mixture, operator, std: float = STD) -> Problem:
    """A problem with a linear operator, measured on a sample of the prior."""
    x0 = prior.sample(jax.random.key(1), 1)
    y = inverse.measure(jax.random.key(2), operator, x0, std).y[0]
    exact = posterior(prior, operator.matrix(prior.event), y, std)
    modes = None
    if isinstance(exact, Mixture):

        def modes(x: np.ndarray) -> np.ndarray:
            # A noise of 0.05 keeps densities finite where y leaves no variance.
            at = SDE.t_of_log_snr(-jnp.log(0.05))
            scaled = SDE.alpha(at) * jnp.asarray(x)
            return np.asarray(exact._posterior(SDE, scaled, at).T)

    return Problem(name, title, prior, operator, y, exact, modes, std)


def smooth(num: int, variance: float, length: float) -> np.ndarray:
    """The covariance of a stationary signal of that length scale on a line of num points."""
    apart = np.abs(np.arange(num)[:, None] - np.arange(num))
    return variance * np.exp(-0.5 * (apart / length) ** 2) + 0.02 * np.eye(num)


def problems() -> list[Problem]:
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(8, 8)) / np.sqrt(8)
    gaussian = Gaussian.of(
        jnp.asarray(rng.normal(size=8), jnp.float32),
        jnp.asarray(factor @ factor.T + 0.1 * np.eye(8), jnp.float32),
    )
    sensing = inverse.CompressedSensing.gaussian(jax.random.key(3), 4, (8,))
    corners = jnp.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-0.7, -0.6]])
    plane = GaussianMixture.of(corners, 0.25, jnp.array([0.3, 0.2, 0.3, 0.2]))
    line = inverse.CompressedSensing(jnp.array([[1.0, 0.6]]))
    # Three waves on a line of 64 points, each with smooth deviations of its own.
    points = np.arange(64) / 64
    waves = np.stack([np.sin(2 * np.pi * (k * points + 0.1 * k)) for k in (1, 2, 3)])
    covariances = np.broadcast_to(smooth(64, 0.25, 4.0), (3, 64, 64))
    signals = GaussianMixture.full(
        jnp.asarray(waves, jnp.float32), jnp.asarray(covariances, jnp.float32)
    )
    order = rng.permutation(64)
    few, many = (inverse.Inpainting(jnp.asarray(order >= hidden)) for hidden in (16, 48))
    blur = inverse.Blur(inverse.gaussian_kernel(9, 2.0, rank=1))
    return [
        linear("gaussian", "Gaussian in 8 dimensions, 4 random projections", gaussian, sensing),
        linear("mixture", "Mixture of 4 in the plane, one projection", plane, line, 0.3),
        linear("hidden 25 %", "64 dimensions, 25 % hidden", signals, few),
        linear("hidden 75 %", "64 dimensions, 75 % hidden", signals, many),
        linear("blur", "64 dimensions, blurred", signals, blur),
        phase(plane),
    ]


def phase(prior: Mixture, std: float = 0.2) -> Problem:
    """Magnitudes of the Fourier transform of a point in the plane: |x_1 + x_2| and |x_1 - x_2|."""
    operator = inverse.PhaseRetrieval()
    x0 = prior.sample(jax.random.key(5), 1)
    y = inverse.measure(jax.random.key(6), operator, x0, std).y[0]
    no_noise = sd.EDM()  # at t = 0

    def log_density(x: jax.Array) -> jax.Array:
        fit = jnp.sum((y - operator(x)) ** 2, axis=1) / std**2
        return prior.log_prob(no_noise, x, 0.0) - 0.5 * fit

    def modes(x: np.ndarray) -> np.ndarray:
        # Each sign of x_1 + x_2 and x_1 - x_2 is a mode.
        index = 2 * (x[:, 0] + x[:, 1] > 0) + (x[:, 0] > x[:, 1])
        return np.eye(4)[index.astype(int)]

    exact = on_grid(log_density, -3.0, 3.0, 300)
    return Problem(
        "phase retrieval", "Phase retrieval in the plane", prior, operator, y, exact, modes, std
    )


@dataclasses.dataclass(frozen=True)
class Method:
    """How a method samples: a model and a solver, and its backward passes for each evaluation."""

    name: str
    make: Callable[[Problem], tuple[sd.Model, sd.Solver]]
    backward: Callable[[Problem], int] = lambda problem: 0
    nonlinear: bool = False
    claims: str = "biased"


# With the noise of the reverse SDE, at second order.
def plain() -> sd.Solver:
    return samplers.SDEDPMSolverPP2M()


def guided(guide: Callable[[sd.Model, Problem], sd.Model]) -> Callable:
    return lambda problem: (guide(problem.prior.model(SDE), problem), plain())


def stepped(solver: Callable[[Problem], sd.Solver]) -> Callable:
    return lambda problem: (problem.prior.model(SDE), solver(problem))


def reward(problem: Problem) -> Callable:
    return inverse.likelihood(problem.operator, gamma=LIKELIHOOD_GAMMA)


def iterations(problem: Problem) -> int:
    return min(problem.y.size, 5)


METHODS = [
    Method(
        "mmps",
        guided(lambda m, p: inverse.mmps(m, p.operator, iterations=iterations(p))),
        lambda p: 1 + iterations(p),
        True,
        "exact for Gaussians",
    ),
    Method(
        "tmpd", guided(lambda m, p: inverse.tmpd(m, p.operator)), lambda p: 1 + p.y.size,
        claims="exact for Gaussians",
    ),
    Method(
        "tmpd, diagonal",
        guided(lambda m, p: inverse.tmpd(m, p.operator, diagonal=True)),
        lambda p: 2,
    ),
    Method("pigdm", guided(lambda m, p: inverse.pigdm(m, p.operator)), lambda p: 1),
    Method("sda", guided(lambda m, p: inverse.sda(m, p.operator)), lambda p: 1, True),
    Method(
        "DPS",
        stepped(lambda p: inverse.DPS(samplers.Ancestral(), p.operator, zeta=0.3)),
        lambda p: 1,
        True,
    ),
    Method("Replacement", stepped(lambda p: inverse.Replacement(plain(), p.operator))),
    Method(
        "RePaint", stepped(lambda p: inverse.RePaint(samplers.Ancestral(), p.operator, repeats=5))
    ),
    Method("DiffPIR", stepped(lambda p: inverse.DiffPIR(p.operator))),
    Method("DDRM", stepped(lambda p: inverse.DDRM.of(p.operator, p.prior.event))),
    Method(
        "DAPS",
        stepped(
            lambda p: inverse.DAPS(
                samplers.DDIM(), p.operator, ode_steps=3, prior_variance=0.5, langevin_steps=100,
                steepness=2.0,
            )
        ),
        nonlinear=True,
    ),
    Method(
        "TDS, 8 particles",
        stepped(lambda p: inverse.TDS(particles=8, reward=reward(p))),
        lambda p: 1,
        True,
        "exact as particles grow",
    ),
    Method(
        "FKSteering, 8 particles",
        stepped(
            lambda p: inverse.FKSteering(
                particles=8, reward=reward(p), solver=samplers.Ancestral()
            )
        ),
        nonlinear=True,
        claims="exact as particles grow",
    ),
]  # fmt: skip
