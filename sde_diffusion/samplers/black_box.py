"""Black-box ODE solvers from diffrax for the probability flow, with step sizes for each sample."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from sde_diffusion.model import Model, time_dtype
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.per_sample import alone, predict_one
from sde_diffusion.samplers.solver import Counted, Solver, State
from sde_diffusion.sdes import Array
from sde_diffusion.selection import require_known

# The iterations for the equation of each implicit stage. The number is fixed, so that the number of
# evaluations is known. (There are fewer if an iterate is not finite; the count is then too high.)
_ITERATIONS = 4

# The evaluations of an attempted step, and those before the first step. diffrax reports steps only;
# tests/samplers/test_black_box.py counts the calls themselves. A step of kvaerno5 solves 6
# equations and computes two Jacobians. Each is one evaluation with derivatives and one without.
_EVALUATIONS = {
    "tsit5": (6, 1),
    "dopri5": (6, 1),
    "dopri8": (13, 1),
    "kvaerno5": (6 * _ITERATIONS + 4, _ITERATIONS),
}


@dataclasses.dataclass(frozen=True)
class BlackBox(Solver):
    """Integrates the probability flow to the tolerances rtol and atol; needs the extra `ode`.

    It stops at the times of the grid, so `[t_max, t_min]` leaves all steps to it. Each sample has
    its own step sizes, and therefore does not depend on its neighbours, and its own count of
    evaluations. The network runs on the whole batch until the last sample is finished. "kvaerno5"
    is implicit, for stiff flows in few dimensions: it computes the Jacobian [D, D] of every sample,
    which counts as an evaluation. Gradients in the start, the model and the condition are diffrax's
    own, by its checkpointed adjoint. Song et al. 2021, sec. 4.3 and app. D.4, who use
    rtol = atol = 1e-5.
    """

    adaptive = True
    needs = ("diffrax", "ode")
    methods: ClassVar[tuple[str, ...]] = tuple(_EVALUATIONS)

    method: str = "tsit5"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 4096

    def __post_init__(self) -> None:
        require_known("method", self.method, self.methods)

    @property
    def order(self) -> int:  # type: ignore[override]
        return 8 if self.method == "dopri8" else 5

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        import diffrax

        solvers: dict[str, Callable[[], Any]] = {
            "tsit5": diffrax.Tsit5,
            "dopri5": diffrax.Dopri5,
            "dopri8": diffrax.Dopri8,
            "kvaerno5": _kvaerno5,
        }
        velocity_of_one = _velocity(len(state.x))
        x = state.x.astype(time_dtype(state.x))
        start, end = jnp.minimum(t, s), jnp.maximum(t, s)

        def velocity(t: Any, x: Array, args: tuple[Model, Any]) -> Array:
            # Stages of an implicit method may lie beyond the end, where the SDE is not defined.
            return velocity_of_one(args[0], x, jnp.clip(t, start, end), args[1])

        def solve(x: Array, cond: Any) -> Any:
            return diffrax.diffeqsolve(
                diffrax.ODETerm(velocity),
                solvers[self.method](),
                t0=t,
                t1=s,
                dt0=None,
                y0=x,
                args=(model.uncounted, alone(cond)),
                saveat=diffrax.SaveAt(t1=True),
                stepsize_controller=diffrax.PIDController(rtol=self.rtol, atol=self.atol),
                max_steps=self.max_steps,
                # A sample that needs more steps is returned as NaN, below.
                throw=False,
            )

        solution = jax.vmap(solve)(x, cond)
        a_step, before = _EVALUATIONS[self.method]
        calls = before + a_step * solution.stats["num_steps"]
        model.calls = model.calls + calls * _evaluations(model.uncounted, x, t, cond)
        reached = solution.result == diffrax.RESULTS.successful
        reached = reached.reshape(reached.shape + (1,) * (state.x.ndim - 1))
        return State(jnp.where(reached, solution.ys[:, 0], jnp.nan))


def _evaluations(model: Model, x: Array, t: Array, cond: Any) -> Array | int:
    """How many evaluations a call of the model counts, by a trace that runs nothing.

    Raises ValueError where the number changes along the way, which diffrax cannot count.
    """
    told: list[Any] = []
    jax.eval_shape(lambda: told.append(model(x, t, cond).evaluations))
    if not isinstance(told[0], int):
        raise ValueError(
            "BlackBox cannot count a model whose number of evaluations depends on the time: use a "
            "solver with a grid, or AdaptiveDPMSolver"
        )
    return told[0]


def _velocity(batch: int) -> Callable[..., Array]:
    """velocity(model, x [*event], t [], cond) of one sample, to be mapped over all of them.

    The model is called with the whole batch. Derivatives are those of the model of a single sample
    under an ordinary vmap, because JAX has no reverse mode for a custom_vmap.
    """
    predict = predict_one(batch)

    @jax.custom_jvp
    def velocity(model: Model, x: Array, t: Array, cond: Any) -> Array:
        return predict(model, x[None], t, cond).velocity[0]

    @velocity.defjvp
    def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
        def of_one(model: Model, x: Array, t: Array, cond: Any) -> Array:
            return model(x[None], t, cond).velocity[0]

        return velocity(*primals), jax.jvp(of_one, primals, tangents)[1]

    return velocity


@functools.cache
def _kvaerno5() -> Any:
    """diffrax.Kvaerno5 that always makes `_ITERATIONS` iterations for each implicit equation.

    If an equation is not solved by then, the step is rejected and a smaller one is tried.
    """
    import diffrax
    import optimistix

    class FixedNumber(diffrax.VeryChord):
        def terminate(
            self, fn: Any, y: Any, args: Any, options: Any, state: Any, tags: Any
        ) -> tuple[Array, Any]:
            done = state.step >= _ITERATIONS
            results = optimistix.RESULTS
            missed = done & ~(state.diffsize < self.kappa)
            return done, results.where(missed, results.nonlinear_divergence, results.successful)

    root_finder = diffrax.with_stepsize_controller_tols(FixedNumber)()
    return diffrax.Kvaerno5(root_finder=root_finder)
