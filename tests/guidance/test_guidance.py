"""Every guided score against its closed form on class-conditional mixtures."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided_problem import (
    CLASSES,
    KEY,
    KINDS,
    LABELS,
    MODEL,
    NULL,
    SDE,
    B,
    X,
    class_score,
    of_kind,
    score,
)

import sde_diffusion as sd
from sde_diffusion import grids, guidance, samplers
from sde_diffusion.guidance import (
    Linear,
    Projected,
    Rescaled,
    autoguidance,
    away_from,
    cfg_plus_plus,
    classifier_free,
    classifier_guidance,
    compose,
    dynamic_threshold,
    interval,
    power,
    product,
    static_threshold,
)

T = jnp.float32(0.4)
close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)


def guided_score(w):
    """score(x) + w grad log p(c | x_t), [B, 2]."""
    return score(X, T) + w * class_score(X, T, LABELS)


class TestClassifierFree:
    @pytest.mark.parametrize(("kind", "batched"), [*((kind, True) for kind in KINDS), ("v", False)])
    def test_it_is_the_score_of_p_times_the_class_probability_to_a_power(self, kind, batched):
        model = classifier_free(of_kind(kind), 2.5, null=NULL, batched=batched)
        made = model(X, T, LABELS)
        close(made.score, guided_score(2.5))
        assert made.kind == kind
        assert made.evaluations == 2

    def test_weights_of_0_and_1_are_the_model_without_and_with_its_condition(self):
        close(classifier_free(MODEL, 0, null=NULL)(X, T, LABELS).score, score(X, T))
        close(classifier_free(MODEL, 1, null=NULL)(X, T, LABELS).score, score(X, T, LABELS))

    def test_each_sample_has_its_own_weight(self):
        w = jnp.linspace(-1.0, 4.0, B)
        made = classifier_free(MODEL, w, null=NULL)(X, T, LABELS)
        close(made.score, guided_score(w[:, None]))

    def test_a_weight_is_a_function_of_each_samples_time(self):
        t = jnp.linspace(0.2, 0.9, B)
        made = classifier_free(MODEL, lambda t: 1.0 + 3.0 * t, null=NULL)(X, t, LABELS)
        w = (1.0 + 3.0 * t)[:, None]
        close(made.score, score(X, t) + w * class_score(X, t, LABELS))

    def test_conditions_are_trees_with_a_null_of_numbers_or_arrays(self):
        def fn(x, t, cond):
            return x + jnp.mean(cond["text"], axis=1) * cond["mask"][:, None]

        cond = {"text": jnp.ones((B, 3, 2)) * jnp.arange(B)[:, None, None], "mask": jnp.ones(B)}
        null = {"text": jnp.full((3, 2), 7.0), "mask": 0.5}
        made = classifier_free(sd.from_x0(SDE, fn), 3.0, null=null)(X, T, cond)
        plain, other = fn(X, T, cond), X + 3.5
        close(made.x0, other + 3.0 * (plain - other))

    def test_null_none_calls_the_model_without_a_condition(self):
        made = classifier_free(MODEL, 2.5, null=None, batched=False)(X, T, LABELS)
        close(made.score, guided_score(2.5))

    def test_another_weight_compiles_nothing(self):
        traced = []

        @jax.jit
        def call(model):
            traced.append(1)
            return model(X, T, LABELS).score

        close(call(classifier_free(MODEL, 2, null=NULL)), guided_score(2.0))
        close(call(classifier_free(MODEL, 2.5, null=NULL)), guided_score(2.5))
        assert len(traced) == 1

    def test_the_gradient_in_the_weight_is_the_difference_of_the_branches(self):
        def total(w):
            return jnp.sum(classifier_free(MODEL, w, null=NULL)(X, T, LABELS).score)

        expected = jnp.sum(class_score(X, T, LABELS))
        assert float(jax.grad(total)(2.0)) == pytest.approx(float(expected), rel=1e-4)

    def test_the_joint_batch_keeps_branches_of_a_sample_together(self):
        seen = []

        def fn(x, t, cond):
            seen.append(cond)
            return x

        classifier_free(sd.from_x0(SDE, fn), 2.0, null=9)(X, T, LABELS)
        assert np.array_equal(seen[-1], np.stack([np.full(B, 9), LABELS], axis=1).ravel())


class TestAwayFrom:
    """A negative condition of each sample's own."""

    OTHERS = 1 - LABELS

    @pytest.mark.parametrize("batched", [True, False])
    def test_it_is_the_score_of_one_class_times_a_power_of_the_ratio_of_both(self, batched):
        made = away_from(MODEL, 2.5, batched=batched)(
            X, T, {"positive": LABELS, "negative": self.OTHERS}
        )
        negative = score(X, T, self.OTHERS)
        close(made.score, negative + 2.5 * (score(X, T, LABELS) - negative))
        assert made.evaluations == 2

    def test_away_from_no_class_it_is_classifier_free(self):
        cond = {"positive": LABELS, "negative": jnp.full_like(LABELS, NULL)}
        made = away_from(MODEL, 3.0, rule=Rescaled())(X, T, cond)
        close(made.x0, classifier_free(MODEL, 3.0, null=NULL, rule=Rescaled())(X, T, LABELS).x0)

    def test_another_cond_is_told(self):
        with pytest.raises(ValueError, match="must be a dict of negative and positive, got none"):
            away_from(MODEL, 2.0)(X, T, LABELS)
        with pytest.raises(ValueError, match="got positive"):
            away_from(MODEL, 2.0)(X, T, {"positive": LABELS})


class TestRules:
    @pytest.mark.parametrize("rule", [Rescaled(0.0), Projected(parallel=1.0)])
    def test_without_their_change_they_are_linear(self, rule):
        made = classifier_free(MODEL, 2.5, null=NULL, rule=rule)(X, T, LABELS)
        close(made.score, guided_score(2.5), atol=1e-4)
        assert made.evaluations == 2

    def test_rescaling_gives_the_standard_deviation_of_the_conditional_branch(self):
        rule = Rescaled(1.0, view="x0")
        made = classifier_free(of_kind("eps"), 4.0, null=NULL, rule=rule)(X, T, LABELS).x0
        linear = classifier_free(MODEL, 4.0, null=NULL)(X, T, LABELS).x0
        wanted = np.std(MODEL(X, T, LABELS).x0, axis=1)
        close(np.std(made, axis=1), wanted)
        close(made / linear, np.broadcast_to(made[:, :1] / linear[:, :1], made.shape), rtol=1e-3)

    def test_projection_leaves_what_is_orthogonal_to_the_conditional_x0(self):
        rule = Projected()
        made = classifier_free(of_kind("v"), 4.0, null=NULL, rule=rule)(X, T, LABELS).x0
        wanted, without = MODEL(X, T, LABELS).x0, MODEL(X, T).x0
        change = made - wanted
        close(jnp.sum(change * wanted, axis=1), 0, atol=1e-5)
        # In the plane: rotate x0 by a right angle, and project on it.
        across = jnp.stack([-wanted[:, 1], wanted[:, 0]], axis=1)
        across = across / jnp.linalg.norm(across, axis=1, keepdims=True)
        expected = 3.0 * jnp.sum((wanted - without) * across, axis=1, keepdims=True) * across
        close(change, expected)

    def test_the_bound_of_projected_guidance_limits_the_change(self):
        rule = Projected(parallel=1.0, bound=0.05)
        made = classifier_free(MODEL, 3.0, null=NULL, rule=rule)(X, T, LABELS).x0
        wanted, without = MODEL(X, T, LABELS).x0, MODEL(X, T).x0
        length = jnp.linalg.norm(wanted - without, axis=1)
        expected = 2.0 * jnp.minimum(length, 0.05)
        close(jnp.linalg.norm(made - wanted, axis=1), expected)


class TestInterval:
    MODEL = interval(classifier_free(MODEL, 3.0, null=NULL), MODEL, 0.3, 3.0)
    OUT, IN = jnp.float32(0.05), jnp.float32(0.4)

    def test_it_is_guided_inside_and_plain_outside_and_counts_what_it_computes(self):
        inside, outside = (jax.jit(self.MODEL)(X, t, LABELS) for t in (self.IN, self.OUT))
        close(inside.score, guided_score(3.0))
        close(outside.score, score(X, self.OUT, LABELS))
        assert (int(inside.evaluations), int(outside.evaluations)) == (2, 1)

    def test_a_branch_outside_is_not_run(self):
        runs = []

        def fn(x, t, cond):
            jax.debug.callback(lambda: runs.append(1))
            return x

        marked = classifier_free(sd.from_x0(SDE, fn), 3.0, null=NULL, batched=False)
        model = jax.jit(interval(marked, MODEL, 0.3, 3.0))
        jax.block_until_ready(model(X, self.OUT, LABELS).value)
        jax.block_until_ready(model(X, jnp.full(B, self.OUT), LABELS).value)
        jax.effects_barrier()
        assert len(runs) == 0
        jax.block_until_ready(model(X, self.IN, LABELS).value)
        jax.effects_barrier()
        assert len(runs) == 2

    def test_each_sample_has_its_own_time(self):
        t = jnp.array([self.IN, self.OUT, self.OUT, self.IN, self.IN, self.OUT])
        made = jax.jit(self.MODEL)(X, t, LABELS)
        expected = jnp.where((t == self.IN)[:, None], guided_score(3.0), score(X, self.OUT, LABELS))
        close(made.score, expected)
        assert np.array_equal(made.evaluations, np.where(t == self.IN, 2, 1))

    def test_it_is_the_same_under_vmap(self):
        t = jnp.array([self.IN, self.OUT])
        made = jax.vmap(lambda t: self.MODEL(X, t, LABELS))(t)
        close(made.score[0], guided_score(3.0))
        assert np.array_equal(made.evaluations, [2, 1])

    def test_pure_noise_without_signal_is_outside(self):
        sde = sd.Flow()
        model = CLASSES.model(sde)
        guided = interval(classifier_free(model, 3.0, null=NULL), model, 0.1, 1e6)
        made = guided(X, jnp.float32(1.0), LABELS)
        assert int(made.evaluations) == 1

    def test_the_evaluations_of_a_sample_are_those_of_its_steps(self):
        grid = grids.uniform(SDE, 12)
        made = samplers.sample(
            KEY, self.MODEL, (B, 2), solver=samplers.DDIM(), grid=grid, cond=LABELS
        )
        level = np.asarray(SDE.sigma(grid) / SDE.alpha(grid))
        assert int(made.nfe) == 13 + np.sum((level >= 0.3) & (level <= 3.0))


class TestOtherGuidance:
    def test_cfg_plus_plus_is_ddim_that_adds_the_noise_of_the_null_branch(self):
        grid = grids.uniform(SDE, 6)
        model = cfg_plus_plus(MODEL, 0.7, grid=grid, null=NULL)
        made = samplers.sample(
            KEY, model, (B, 2), solver=samplers.DDIM(), grid=grid, cond=LABELS, x_init=X
        ).x
        x = X
        for t, s in itertools.pairwise(grid):
            guided = classifier_free(MODEL, 0.7, null=NULL)(x, t, LABELS)
            x = SDE.alpha(s) * guided.x0 + SDE.sigma(s) * MODEL(x, t).eps
        close(made, classifier_free(MODEL, 0.7, null=NULL)(x, grid[-1], LABELS).x0, atol=1e-4)

    def test_autoguidance_extrapolates_from_the_worse_model(self):
        worse = of_kind("eps", sd.analytic.Gaussian.of(jnp.zeros(2), 1.0).model(SDE))
        worse = sd.from_eps(SDE, lambda x, t, cond: -jnp.zeros_like(x) + 0.9 * x)
        made = autoguidance(MODEL, worse, 2.0)(X, T, LABELS)
        close(made.eps, 2.0 * MODEL(X, T, LABELS).eps - 0.9 * X)
        assert made.evaluations == 2

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_exact_classifier_makes_the_conditional_score(self, kind):
        model = of_kind(kind)
        made = classifier_guidance(model, functools.partial(CLASSES.log_class, SDE))
        made = made(X, T, LABELS)
        close(made.score, score(X, T, LABELS), atol=1e-4)
        assert made.evaluations == 2

    def test_the_temperature_divides_the_logits(self):
        def logits(x, t):
            return jnp.stack([x[:, 0], jnp.zeros(len(x))], axis=1)

        made = classifier_guidance(MODEL, logits, 3.0, temperature=0.5)(X, T, LABELS)
        probability = jax.nn.sigmoid(2.0 * X[:, 0])
        slope = jnp.where(LABELS == 0, 2.0 * (1.0 - probability), -2.0 * probability)
        change = jnp.stack([3.0 * slope, jnp.zeros(B)], axis=1)
        close(made.score, score(X, T) + change, atol=1e-4)

    @pytest.mark.parametrize("batched", [True, False])
    def test_a_composition_adds_and_negates_conditions(self, batched):
        cond = {"is": LABELS, "not": 1 - LABELS}
        made = compose(MODEL, {"is": 2.0, "not": -0.5}, null=NULL, batched=batched)(X, T, cond)
        change = 2.0 * class_score(X, T, LABELS) - 0.5 * class_score(X, T, 1 - LABELS)
        close(made.score, score(X, T) + change)
        assert made.evaluations == 3

    def test_products_and_powers_add_scores(self):
        other = sd.analytic.Gaussian.of(jnp.zeros(2), 0.5)
        models = [MODEL, sd.from_eps(SDE, lambda x, t, cond: other.model(SDE)(x, t).eps)]
        made = product(models, [1.0, 2.0])(X, T, LABELS)
        close(made.score, score(X, T, LABELS) + 2.0 * other.score(SDE, X, T))
        close(power(MODEL, 3.0)(X, T, LABELS).score, 3.0 * score(X, T, LABELS))

    def test_static_thresholding_clips_x0_and_leaves_the_rest_to_the_last_digit(self):
        model = of_kind("eps")
        plain, made = (m(X, T, LABELS) for m in (model, static_threshold(model, -0.3, 0.4)))
        close(made.x0, np.clip(plain.x0, -0.3, 0.4), atol=1e-5)
        kept = (plain.x0 > -0.3) & (plain.x0 < 0.4)
        assert np.any(kept)
        assert np.array_equal(np.asarray(made.value)[kept], np.asarray(plain.value)[kept])

    def test_dynamic_thresholding_scales_samples_that_leave_the_range(self):
        x0 = jnp.array([[0.2, -0.5, 0.1, 0.9], [4.0, -2.0, 1.0, 0.5]])
        model = sd.from_x0(SDE, lambda x, t: x0)
        made = dynamic_threshold(model, 1.0)(jnp.zeros((2, 4)), T).x0
        close(made[0], x0[0])
        close(made[1], x0[1] / 4.0)
        half = dynamic_threshold(model, 2 / 3)(jnp.zeros((2, 4)), T).x0
        close(half[1], np.clip(x0[1], -2.0, 2.0) / 2.0)


class TestComposability:
    GUIDED = static_threshold(
        interval(classifier_free(MODEL, 2.0, null=NULL, rule=Rescaled(0.5)), MODEL, 0.1, 5.0),
        -2.0,
        2.0,
    )
    SOLVERS = (
        samplers.DPMSolverPP2M(),
        samplers.SASolver(),
        samplers.Heun(),
        samplers.AdaptiveDPMSolver(),
        samplers.ParaDiGMS(samplers.DDIM(), window=4),
        samplers.Fitted(
            tuple(np.linspace(1.0, 0.01, 4).tolist()),
            (0.5, 0.5, 0.0),
            ((0.3,), (0.2, 0.3), (0, 0, 1)),
        ),
    )

    @pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
    def test_every_family_of_solvers_takes_guidance_inside_guidance(self, solver):
        """A sample is the same beside other neighbours, and NFE is its own."""
        grid = None if solver.times else grids.uniform(SDE, 6)

        def draw(first):
            cond = LABELS[first : first + 2]
            made = samplers.sample(
                KEY, self.GUIDED, (2, 2), solver=solver, grid=grid, cond=cond, first=first
            )
            return np.asarray(made.x), np.broadcast_to(made.nfe, 2)

        (x, nfe), (shifted, nfe_shifted) = draw(0), draw(1)
        assert np.all(np.isfinite(x))
        np.testing.assert_allclose(x[1], shifted[0], atol=1e-4)
        assert nfe[1] == nfe_shifted[0]
        assert np.all(np.abs(x) <= 2.0 + 1e-5)

    def test_guidance_of_a_guided_model_is_guidance_by_the_product_of_weights(self):
        inner = classifier_free(MODEL, 2.0, null=NULL)
        outer = classifier_free(inner, 1.5, null=NULL, batched=True)
        made = outer(X, T, LABELS)
        close(made.score, guided_score(3.0), atol=1e-4)
        assert made.evaluations == 4

    @pytest.mark.slow
    def test_compare_takes_a_guided_model(self):
        problem = sd.comparison.Problem(
            "guided",
            classifier_free(MODEL, 1.0, null=NULL),
            (2,),
            lambda key, num: CLASSES.given(0).sample(key, num),
            conditions=lambda rows: jnp.zeros(len(rows), int),
        )
        (row,) = sd.compare(problem, "ddim", (12,), num=256)
        assert row["nfe"] == 24

    @pytest.mark.slow
    def test_fit_takes_a_guided_model(self):
        model = classifier_free(MODEL, 2.0, null=NULL)
        sizes = {"held_out": 32, "fine_steps": 20, "jacobian": 16, "batch": 16, "seconds": 1e-3}
        fitted = sd.fit(
            KEY, model, (16, 2), nfe=3, conditions=lambda rows: jnp.asarray(rows % 2), **sizes
        )
        made = samplers.sample(KEY, model, (B, 2), solver=fitted.solver, cond=LABELS)
        assert np.all(np.isfinite(made.x))
        assert int(made.nfe) == 6


class TestBadInput:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: classifier_free(MODEL, float("nan"), null=NULL), "weight must be finite, got"),
            (lambda: classifier_free(MODEL, np.ones((2, 2)), null=NULL), r"got shape \(2, 2\)"),
            (lambda: classifier_free(MODEL, 2.0, null=None), "set batched=False"),
            (lambda: compose(MODEL, {"a": np.inf}, null=NULL), "weight of 'a' must be finite"),
            (lambda: compose(MODEL, {}, null=NULL), "at least one condition"),
            (lambda: interval(MODEL, MODEL, 2.0, 0.3), "low=2.0, high=0.3"),
            (lambda: interval(MODEL, CLASSES.model(sd.VE()), 0.3, 2.0), "different SDEs"),
            (lambda: autoguidance(MODEL, CLASSES.model(sd.VP(beta_max=9.0)), 2), "different SDEs"),
            (lambda: product([MODEL], [1.0, 2.0]), "1 models and 2 powers"),
            (lambda: power(CLASSES.model(sd.Flow()), 2.0), "product: eps says nothing"),
            (lambda: static_threshold(MODEL, 1.0, -1.0), "low < high"),
            (lambda: dynamic_threshold(MODEL, 99.5), "percentile above 0, up to 1"),
            (lambda: classifier_guidance(MODEL, len, temperature=0.0), "temperature above 0"),
            (lambda: cfg_plus_plus(MODEL, 0.5, grid=[0.1, 0.5], null=2), "decreasing times"),
            (lambda: Rescaled(view="noise"), "noise"),
            (lambda: guidance.FeynmanKac(solver=samplers.GottaGoFast()), "any grid"),
        ],
    )
    def test_what_is_wrong_is_named_when_the_model_is_made(self, make, message):
        with pytest.raises(ValueError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("model", "cond", "message"),
        [
            (classifier_free(MODEL, 2.0, null=NULL), None, "without a condition"),
            (classifier_free(MODEL, 2.0, null={"a": 1}), LABELS, "structure of cond"),
            (classifier_free(MODEL, 2.0, null=jnp.zeros(3)), LABELS, "one value for all samples"),
            (classifier_free(MODEL, jnp.ones(3), null=NULL), LABELS, r"weight has shape \(3,\)"),
            (compose(MODEL, {"a": 1.0}, null=NULL), {"b": LABELS}, "conditions a, got b"),
            (compose(MODEL, {"a": 1.0}, null=NULL), LABELS, "conditions a, got none"),
            (classifier_guidance(MODEL, lambda x, t: x), None, "got nothing"),
            (classifier_guidance(MODEL, lambda x, t: x), jnp.ones(B), "one integer class"),
        ],
    )
    def test_what_is_wrong_is_named_when_it_is_called(self, model, cond, message):
        with pytest.raises(ValueError, match=message) as caught:
            samplers.sample(
                KEY, model, (B, 2), solver=samplers.DDIM(), grid=grids.uniform(SDE, 4), cond=cond
            )
        assert "\n" not in str(caught.value)

    def test_a_weight_that_is_no_number_is_a_type_error(self):
        with pytest.raises(TypeError, match="got 'strong'"):
            classifier_free(MODEL, "strong", null=NULL)
        with pytest.raises(TypeError, match=r"must be a Model, .* got function"):
            classifier_free(lambda x, t: x, 2.0, null=NULL)
        assert Linear() == Linear()
