"""A parameterization is refused where its output says nothing, or its label is infinite."""

import jax
import jax.numpy as jnp
import pytest

import sde_diffusion as sd
from sde_diffusion.parameterization import PARAMETERIZATIONS, misfit

TO_PURE_NOISE = {
    "Flow": sd.Flow(),
    "Tabulated": sd.sdes.tabulated("scaled_linear", zero_terminal_snr=True),
}


def made(sde, name):
    return sd.from_network(sde, lambda variables, x, label: jnp.zeros_like(x), {}, name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ddpm", "it predicts eps, which says nothing about the data at t_max"),
        ("ncsn", "it predicts score, which says nothing about the data at t_max"),
        ("smld", "it predicts score, which says nothing about the data at t_max"),
        ("edm", "its time label is inf at t_max"),
        ("x0", "its time label is inf at t_max"),
    ],
)
@pytest.mark.parametrize("process", TO_PURE_NOISE)
def test_where_alpha_ends_at_0_it_is_refused_with_what_fits(process, name, reason):
    sde = TO_PURE_NOISE[process]
    fits = f"choose 'v' or 'flow' or t_max below {sde.t_max:g}"
    with pytest.raises(
        ValueError, match=f"'{name}' does not fit {process}, since {reason}.*{fits}"
    ):
        made(sde, name)


@pytest.mark.parametrize("sde", TO_PURE_NOISE.values(), ids=TO_PURE_NOISE)
def test_what_is_said_to_fit_is_finite_in_every_view_of_the_last_time(sde):
    x = jnp.ones((2, 3))
    for name in ("v", "flow"):
        said = made(sde, name)(x, sde.t_max)
        for view in ("x0", "eps", "score", "v", "velocity"):
            assert jnp.all(jnp.isfinite(getattr(said, view))), (name, view)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_every_one_fits_an_sde_that_keeps_some_signal(name):
    for sde in (sd.VP(), sd.SubVP(), sd.VE(), sd.EDM(), sd.Cosine(), sd.Flow(t_max=0.99)):
        assert misfit(PARAMETERIZATIONS[name](), sde) is None


def test_an_alpha_that_float32_rounding_leaves_is_0():
    made(sd.Flow(t_max=0.9999), "ddpm")
    with pytest.raises(ValueError, match=r"alpha / sigma = 1\.2e-07.*t_max below 1"):
        made(sd.Flow(t_max=0.9999999), "ddpm")


def test_a_score_or_a_label_that_is_infinite_at_t_min_is_refused():
    sde = sd.EDM(t_min=0.0)
    with pytest.raises(ValueError, match=r"score, which is infinite at t_min=0.*t_min above 0"):
        made(sde, "ncsn")
    with pytest.raises(ValueError, match=r"time label is -inf at t_min=0.*t_min above 0"):
        made(sde, "edm")
    made(sde, "ddpm")


def test_it_is_refused_in_a_compiled_function_too_unless_the_sde_is_an_argument():
    def x0(sde):
        return made(sde, "edm")(jnp.ones((2, 3)), 0.5).x0

    with pytest.raises(ValueError, match="does not fit Flow"):
        jax.jit(lambda: x0(sd.Flow()))()
    jax.jit(x0)(sd.Flow())


def test_x0_is_the_output_itself_of_a_network_whose_input_has_unit_variance():
    sde, std = sd.VP(), 0.6
    x0 = std * jax.random.normal(jax.random.key(0), (20_000, 1))
    t = jnp.full(len(x0), 0.4)
    xt = sde.alpha(t)[:, None] * x0 + sde.sigma(t)[:, None] * jax.random.normal(
        jax.random.key(1), x0.shape
    )
    seen = sd.from_network(
        sde, lambda variables, x, label: x, {}, sd.parameterization.X0(sigma_data=std)
    )(xt, t).x0
    assert float(jnp.std(seen)) == pytest.approx(1.0, abs=0.02)
    assert float(jnp.corrcoef(seen[:, 0], xt[:, 0])[0, 1]) == pytest.approx(1.0)
