"""Every view of a prediction, and what goes into and out of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import parameterization, prediction
from sde_diffusion.sdes import KINDS

B = 5


def truth(sde):
    """x made of known x0 and eps, and the views of them by their definitions."""
    key_x0, key_eps = jax.random.split(jax.random.key(0))
    t = jnp.linspace(0.05, 0.95, B) * sde.t_max
    x0, eps = jax.random.normal(key_x0, (B, 3)), jax.random.normal(key_eps, (B, 3))
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    step = 1e-6 * sde.t_max
    rates = [(f(t + step) - f(t - step))[:, None] / (2 * step) for f in (sde.alpha, sde.sigma)]
    views = {
        "x0": x0,
        "eps": eps,
        "score": -eps / sigma,
        "v": alpha * eps - sigma * x0,
        "velocity": rates[0] * x0 + rates[1] * eps,
    }
    return alpha * x0 + sigma * eps, t, views


@pytest.mark.parametrize("kind", prediction.PREDICTIONS)
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_gives_every_view(name, kind):
    with jax.enable_x64(True):
        sde = KINDS[name]()
        x, t, views = truth(sde)
        made = prediction.Prediction(kind, views[kind], x, t, sde)
        for view, value in views.items():
            np.testing.assert_allclose(
                getattr(made, view), value, rtol=1e-5, atol=1e-6 * np.abs(value).max()
            )


@pytest.mark.parametrize("kind", ["x0", "v", "velocity"])
def test_every_view_is_finite_where_alpha_vanishes(kind):
    sde, x = sd.Flow(), jnp.ones((2, 3))
    made = getattr(sd, f"from_{kind}")(sde, lambda x, t: 0.5 * x)(x, 1.0)
    for view in prediction.PREDICTIONS:
        assert np.all(np.isfinite(getattr(made, view))), view


def test_eps_gives_the_score_where_alpha_vanishes():
    x = jnp.ones((2, 3))
    made = prediction.Prediction("eps", 0.5 * x, x, jnp.float32(1.0), sd.Flow())
    np.testing.assert_allclose(made.score, -0.5)


def test_an_unknown_kind_is_an_error_that_names_the_known_ones():
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"did you mean 'velocity'.*x0, eps, score, v, velocity"):
        prediction.Prediction("velocty", x, x, jnp.float32(0.5), sd.VP())


@pytest.mark.parametrize("kind", prediction.PREDICTIONS)
@pytest.mark.parametrize("view", prediction.PREDICTIONS)
def test_the_error_of_a_view_is_the_view_minus_the_truth(kind, view):
    with jax.enable_x64(True):
        sde = sd.VP()
        x, t, views = truth(sde)
        wrong = views[kind] + 0.1
        made = prediction.Prediction(kind, wrong, x, t, sde)
        error = made.error(view, views["x0"], views["eps"])
        np.testing.assert_allclose(error, getattr(made, view) - views[view], rtol=1e-4, atol=1e-7)


def test_the_error_of_eps_keeps_its_digits_at_small_sigma():
    sde, t = sd.EDM(), 0.002
    x0, eps = jnp.full((1, 1), 0.7), jnp.full((1, 1), 1.3)
    x = x0 + 0.002 * eps
    made = sd.from_x0(sde, lambda x, t: x0 + 1e-6)(x, t)
    # the error of x0 is 1e-6 to the rounding of 0.7, so that of eps is -1e-6 / sigma
    expected = -((x0 + 1e-6) - x0) / 0.002
    np.testing.assert_allclose(made.error("eps", x0, eps), expected, rtol=1e-5)


def test_a_model_with_other_weights_does_not_retrace():
    sde, traces = sd.VP(), []

    def apply(weight, x, label):
        traces.append(1)
        return weight * x

    run = jax.jit(lambda model, x: model(x, 0.5).x0)
    x = jnp.ones((2, 3))
    outputs = [run(sd.from_network(sde, apply, jnp.float32(w)), x) for w in (1.0, 2.0)]
    assert len(traces) == 1
    assert not np.allclose(*outputs)


def test_other_conditions_do_not_retrace():
    sde, traces = sd.VP(), []

    def apply(weight, x, label, cond):
        traces.append(1)
        return weight * x + cond[:, None]

    run = jax.jit(lambda model, x, cond: model(x, 0.5, cond).eps)
    x = jnp.ones((2, 3))
    for labels in ([0, 1], [2, 3]):
        model = sd.from_network(sde, apply, jnp.float32(1.0))
        eps = run(model, x, jnp.array(labels))
        np.testing.assert_allclose(eps, x + np.array(labels)[:, None])
    assert len(traces) == 1


class TestParameterizations:
    def network(self, name, sde, x, t):
        """The input and the label that a network gets, and the prediction if it returns ones."""
        seen = {}

        def apply(variables, x, label):
            seen.update(x=x, label=label)
            return jnp.ones_like(x)

        made = sd.from_network(sde, apply, {}, name)(x, t)
        return seen["x"], seen["label"], made

    def test_ddpm_labels_are_999_t_and_the_output_is_eps(self):
        x, t = jnp.full((2, 3), 0.5), jnp.array([0.1, 1.0])
        seen, label, made = self.network("ddpm", sd.VP(), x, t)
        np.testing.assert_allclose(seen, x)
        np.testing.assert_allclose(label, [99.9, 999.0], rtol=1e-6)
        np.testing.assert_allclose(made.eps, 1.0)

    def test_ncsn_label_is_sigma_and_the_output_is_the_score(self):
        _, label, made = self.network("ncsn", sd.VE(), jnp.ones((1, 3)), jnp.array([1.0]))
        np.testing.assert_allclose(label, 50.0, rtol=1e-5)
        np.testing.assert_allclose(made.score, 1.0)

    def test_smld_labels_count_from_sigma_max_downwards(self):
        t = jnp.arange(1000) / 999
        _, label, _ = self.network("smld", sd.VE(), jnp.ones((1000, 3)), t)
        np.testing.assert_array_equal(label, np.arange(1000)[::-1])

    @pytest.mark.parametrize(("name", "kind"), [("v", "v"), ("flow", "velocity")])
    def test_v_and_flow_outputs(self, name, kind):
        _, _, made = self.network(name, sd.Flow(), jnp.ones((1, 3)), jnp.array([0.3]))
        np.testing.assert_allclose(getattr(made, kind), 1.0)

    def test_edm_is_the_table_of_the_paper(self):
        x, sigma, data = jnp.full((2, 3), 0.5), jnp.array([0.1, 3.0]), 0.5
        seen, label, made = self.network("edm", sd.EDM(), x, sigma)
        c_skip = data**2 / (sigma**2 + data**2)
        c_out = sigma * data / np.sqrt(sigma**2 + data**2)
        c_in = 1 / np.sqrt(sigma**2 + data**2)
        np.testing.assert_allclose(label, np.log(sigma) / 4, rtol=1e-5)
        np.testing.assert_allclose(seen, c_in[:, None] * x, rtol=1e-5)
        np.testing.assert_allclose(made.x0, c_skip[:, None] * x + c_out[:, None], rtol=1e-5)

    @pytest.mark.parametrize("name", KINDS)
    def test_edm_has_unit_variance_in_and_out_for_every_sde(self, name):
        sde, data = KINDS[name](), 0.5
        t = 0.6 * sde.t_max
        kind = parameterization.EDM(sigma_data=data)
        c_in, c_skip, c_out = kind.coefficients(sde, jnp.asarray(t))
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        np.testing.assert_allclose(c_in**2 * (alpha**2 * data**2 + sigma**2), 1.0, rtol=1e-5)
        # target of the network: (x0 - c_skip x) / c_out
        of_x0, of_eps = (1 - c_skip * alpha) / c_out, c_skip * sigma / c_out
        np.testing.assert_allclose((of_x0 * data) ** 2 + of_eps**2, 1.0, rtol=1e-5)

    def test_an_unknown_name_lists_the_choices(self):
        with pytest.raises(ValueError, match=r"unknown parameterization 'ddmp'; did you mean 'dd"):
            sd.from_network(sd.VP(), lambda *a: a, {}, "ddmp")
