"""compare(): its rows against closed forms, and that nothing is measured twice or lost."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.comparison import Problem, compare, exact_problem, measure, report, store
from sde_diffusion.comparison.table import table

NUM = 256
SOLVERS = "ddim,dpmpp_2m,ddim(eta=1.0)"


def gaussian(sde, variance=0.25, mean=(0.5, -0.3)):
    exact = sd.analytic.Gaussian.of(jnp.array(mean), jnp.array(variance))
    return exact_problem("gaussian", exact, sde)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def rows(folder):
    return compare("gaussian", SOLVERS, (5, 11), num=NUM, out=folder)


@pytest.fixture
def no_report(monkeypatch):
    """For tests of rows alone: the pictures take longer than they."""
    monkeypatch.setattr(report, "write", lambda *args: None)


def row(rows, solver, budget):
    (found,) = [r for r in rows if r["solver"] == solver and r["budget"] == budget]
    return found


def test_a_row_for_every_solver_and_budget(rows):
    assert len(rows) == 6
    assert row(rows, "dpmpp_2m", 11)["nfe"] == 11
    assert row(rows, "ddim", 5)["nfe"] == 5


def test_more_evaluations_of_a_better_solver_have_less_error(rows):
    assert row(rows, "ddim", 11)["rms"] < row(rows, "ddim", 5)["rms"]
    assert row(rows, "dpmpp_2m", 11)["rms"] < 0.5 * row(rows, "ddim", 11)["rms"]


def test_the_rms_is_that_of_a_deterministic_solver_only(rows):
    assert math.isnan(row(rows, "ddim(eta=1.0)", 5)["rms"])


def test_the_reference_is_finer_than_what_is_measured(rows):
    assert row(rows, "dpmpp_2m", 11)["reference_error"] < 1e-4


def test_each_metric_has_an_interval_and_a_floor(rows):
    for name in ("sliced_wasserstein", "wasserstein2", "mmd", "kl", "energy_distance"):
        for found in rows:
            assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
            assert math.isfinite(found[f"{name}_floor"])


def test_cost_is_told(rows):
    for found in rows:
        assert found["seconds"] > 0
        assert found["compile_seconds"] > 0
        assert found["memory_bytes"] > NUM * 2 * 4


@pytest.mark.parametrize(("denoise_last", "steps"), [(True, 4), (False, 5)])
def test_the_same_samples_as_sample_makes(denoise_last, steps):
    problem, options = gaussian(sd.VP()), {"solver": samplers.DDIM(), "denoise_last": denoise_last}
    grid = sd.grids.log_snr(problem.sde, steps)
    candidate = compare_candidate("ddim", problem.sde, denoise_last)
    made = measure.run(problem, candidate, jax.random.key(3), 10, batch=4)
    expected = sd.sample(jax.random.key(3), problem.model, (10, 2), grid=grid, **options)
    np.testing.assert_allclose(made.x, expected.x, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(made.nfe, 5)


def compare_candidate(solver, sde, denoise_last=True):
    from sde_diffusion.comparison.candidates import candidates

    (only,) = candidates(solver, (5,), ("log_snr",), sde, (denoise_last,))
    return only


def test_the_fine_solution_is_the_closed_form_of_a_gaussian():
    # x_t = alpha m + sqrt((alpha^2 v + sigma^2) / (v_T)) (x_T - alpha_T m), then the denoiser
    sde, mean, v = sd.VP(), np.array([0.5, -0.3]), 0.25
    problem, key = gaussian(sde, v), jax.random.key(0)
    z = np.asarray(
        sd.noise.normal(sd.noise.fold_in(sd.noise.sample_keys(key, 8), 0), jnp.zeros((8, 2)))
    )

    def at(t):
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        return alpha, sigma, alpha**2 * v + sigma**2

    (alpha_1, sigma_1, v_1), (alpha_0, _, v_0) = at(1.0), at(sde.t_min)
    x = alpha_0 * mean + np.sqrt(v_0 / v_1) * (sigma_1 * z - alpha_1 * mean)
    denoised = mean + alpha_0 * v / v_0 * (x - alpha_0 * mean)
    np.testing.assert_allclose(measure.fine(problem, key, 8, 8), denoised, atol=1e-5)


@pytest.mark.parametrize("sde", [sd.Flow(), sd.Cosine(), sd.EDM()], ids=lambda s: type(s).__name__)
def test_the_fine_grid_spans_every_sde(sde):
    grid = measure.fine_grid(sde, 100)
    assert np.all(np.diff(grid) < 0)
    np.testing.assert_allclose([grid[0], grid[-1]], [sde.t_max, sde.t_min], rtol=1e-5)


def test_the_fine_solution_of_a_problem_with_t_min_is_that_of_an_sde_that_ends_there():
    key, given = jax.random.key(0), dataclasses.replace(gaussian(sd.VP(), 0.25), t_min=0.1)
    ends = gaussian(sd.VP(t_min=0.1), 0.25)
    np.testing.assert_allclose(
        measure.fine(given, key, 8, 8), measure.fine(ends, key, 8, 8), rtol=1e-5, atol=1e-6
    )


def test_truncation_is_that_of_the_prior_in_closed_form():
    # From N(0, s^2) in place of N(0, v + s^2) the flow ends narrower by s / sqrt(v + s^2).
    v, s = 0.25, 1.0
    problem = gaussian(sd.VE(sigma_min=0.01, sigma_max=s), v, mean=(0.0, 0.0))
    (made,) = compare(problem, "heun", (21,), num=2000, metrics=["mean_error"])
    expected = math.sqrt(v) * (1 - s / math.sqrt(v + s**2))
    assert made["truncation"] == pytest.approx(expected, rel=0.1)
    assert made["score_error"] == 0.0


def test_truncation_at_the_start_is_told_of_a_network_too():
    v, s = 0.25, 1.0
    exact = gaussian(sd.VE(sigma_min=0.01, sigma_max=s), v, mean=(0.0, 0.0))
    problem = dataclasses.replace(exact, exact=None)
    (made,) = compare(problem, "heun", (21,), num=2000, metrics=["mean_error"])
    expected = math.sqrt(v) * (1 - s / math.sqrt(v + s**2))
    assert made["truncation"] == pytest.approx(expected, rel=0.1)


def test_floors_of_a_data_set_are_between_sets_that_share_no_row():
    # Sets of 500 of 512 rows would be as good as one: nearly at no distance.
    sde, x = sd.VP(), jax.random.normal(jax.random.key(0), (512, 2))
    fresh = exact_problem("normal", sd.analytic.Gaussian.of(jnp.zeros(2), jnp.array(1.0)), sde)
    finite = dataclasses.replace(
        fresh,
        exact=None,
        data=lambda key, num: jax.random.choice(key, x, (num,), replace=False),
        size=len(x),
    )
    (of_data,) = compare(finite, "ddim", (5,), num=500, metrics=["mmd"])
    (of_256,) = compare(fresh, "ddim", (5,), num=256, metrics=["mmd"])
    assert of_data["floor_num"] == of_256["floor_num"] == 256
    assert of_data["mmd_floor"] == pytest.approx(of_256["mmd_floor"], rel=0.3)


def test_a_model_that_gives_nan_is_told_before_any_row():
    sde = sd.VP()
    problem = dataclasses.replace(
        gaussian(sde), model=sd.from_x0(sde, lambda x, t: jnp.where(x > 2.0, jnp.nan, 0.5 * x))
    )
    with pytest.raises(ValueError, match=r"'gaussian'.* nan or inf for \d+ of 256 starts"):
        compare(problem, "ddim", (5,), num=NUM)


def test_the_score_error_is_that_of_a_network_in_closed_form():
    # A model of data moved by d ends moved by d: sqrt(E cos^2) |d| by the sliced distance.
    sde, moved = sd.VP(), jnp.array([0.3, 0.4])
    truth = gaussian(sde)
    wrong = dataclasses.replace(truth.exact, mean=truth.exact.mean + moved)
    problem = dataclasses.replace(truth, model=wrong.model(sde))
    (made,) = compare(problem, "heun", (21,), num=NUM, metrics=["mean_error"])
    assert made["score_error"] == pytest.approx(0.5 / math.sqrt(2), rel=0.1)
    assert made["discretization"] < 0.02


def test_a_solver_that_was_fitted_has_a_row_on_its_own_times():
    times = tuple(np.asarray(grids.log_snr(sd.VP(), 4)).tolist())
    fitted = samplers.FittedGrid(samplers.DDIM(), times)
    ours, standard = compare("gaussian", [fitted, samplers.DDIM()], (5,), num=NUM)
    assert (ours["grid"], ours["nfe"], ours["finite"]) == ("own", 5, 1.0)
    assert ours["rms"] == pytest.approx(standard["rms"], rel=1e-3)


def test_discretization_is_how_far_the_solver_is_from_the_flow():
    few, many = compare("gaussian", "ddim", (5, 101), num=NUM)
    assert few["discretization"] > 10 * many["discretization"] > 0


class TestKLOfThePushforward:
    @pytest.mark.parametrize("denoise_last", [True, False])
    def test_of_a_network_that_is_wrong_in_one_coordinate_is_its_closed_form(self, denoise_last):
        # KL(N(0, s^2) || N(0, 1)) = (s^2 - 1) / 2 - log s, which samples in 64-D cannot tell.
        sde, s, variances = sd.VP(t_min=0.02), 0.1, jnp.ones(64)
        truth = exact_problem("normal", of_variances(variances), sde)
        model = of_variances(variances.at[0].set(s**2)).model(sde)
        problem = dataclasses.replace(truth, model=model)
        options = {"denoise_last": (denoise_last,), "metrics": ["kl_pushforward"]}
        (made,) = compare(problem, "heun", (41,), num=1000, **options)
        # The flow ends at alpha x_0 + sigma z, and the last denoising goes the other way from s.
        alpha, sigma = float(sde.alpha(sde.t_min)), float(sde.sigma(sde.t_min))
        noisy = math.hypot(alpha * s, sigma)
        s = alpha * s**2 / noisy if denoise_last else noisy
        expected = 0.5 * (s**2 - 1) - math.log(s)
        # log q - log p = (s^2 - 1) z^2 / 2 - log s for x = s z, of which four standard errors.
        error = (1 - s**2) / math.sqrt(2 * 1000)
        assert made["kl_pushforward"] == pytest.approx(expected, abs=4 * error)
        interval = made["kl_pushforward_high"] - made["kl_pushforward_low"]
        assert interval == pytest.approx(2 * 1.96 * error, rel=0.3)
        assert made["kl_pushforward_floor"] == made["kl_pushforward_folded"] == 0.0

    def test_is_of_many_dimensions_and_deterministic_solvers_unasked(self):
        problem = exact_problem("normal", of_variances(jnp.full(4, 0.25)), sd.VP())
        solvers = "ddim,deis,ddim(eta=1.0),dpm_adaptive(rtol=0.1)"
        ddim, deis, *others = compare(problem, solvers, (10,), num=64)
        assert 0 < deis["kl_pushforward"] < 0.2 * ddim["kl_pushforward"]
        assert "kl" not in ddim
        assert all(math.isnan(made["kl_pushforward"]) for made in others)

    def test_is_that_of_the_samples_and_where_the_map_folds_a_lower_bound(self, tmp_path):
        metrics = ["kl", "kl_pushforward"]
        rows = compare("mixture2d", "ddim,heun", (5,), num=500, metrics=metrics, out=tmp_path)
        plain, folded = rows
        assert plain["kl_pushforward_folded"] == 0.0
        assert plain["kl_pushforward"] == pytest.approx(plain["kl"], rel=0.1)
        assert folded["kl_pushforward_folded"] > 0.1
        assert folded["kl_pushforward"] < 0.95 * folded["kl"]
        marked = [line.split()[0] for line in table(rows, metrics).splitlines() if ">" in line]
        assert marked == ["heun", ">"]
        assert (tmp_path / "report.html").read_text().count(">&gt;") == 1

    def test_batches_are_those_of_one_set(self):
        problem, key = gaussian(sd.VP()), jax.random.key(0)
        candidate = compare_candidate("ddim", problem.sde)
        whole, parts = (measure.log_ratio(problem, candidate, key, 10, n)[0] for n in (10, 4))
        np.testing.assert_allclose(parts, whole, atol=1e-5)


def of_variances(variances):
    return sd.analytic.Gaussian.of(jnp.zeros(len(variances)), jnp.diag(variances))


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("mixture64d", "kl", "'kl' is of samples in up to 3 dimensions.*'mixture64d' has 64"),
        ("digits", "kl_pushforward", "'kl_pushforward' needs an exact density, 'digits' has none"),
    ],
)
def test_a_metric_that_needs_a_density_says_so(name, metric, message):
    with pytest.raises(ValueError, match=message):
        compare(name, "ddim", (5,), metrics=[metric])


def test_too_few_samples_for_an_interval_are_refused_and_enough_are_not():
    assert compare("gaussian", "ddim", (5,), num=16)[0]["finite"] == 1.0
    with pytest.raises(ValueError, match="num must be at least 16, got 15"):
        compare("gaussian", "ddim", (5,), num=15)


def test_single_points_have_no_density_and_no_kl():
    exact = sd.analytic.Empirical(jax.random.normal(jax.random.key(0), (100, 2)))
    (made,) = compare(exact_problem("points", exact, sd.VP()), "ddim", (5,), num=64)
    assert "energy_distance" in made
    assert not [name for name in made if name.startswith("kl")]


def test_a_problem_without_an_exact_density_is_held_against_its_data():
    sde, exact = sd.VP(), gaussian(sd.VP()).exact
    problem = Problem("mine", exact.model(sde), (2,), exact.sample)
    (made,) = compare(problem, "heun", (11,), num=NUM, metrics=["wasserstein2"])
    assert made["score_error"] > 0
    with pytest.raises(ValueError, match="'kl' needs an exact density"):
        compare(problem, "heun", (11,), num=NUM, metrics=["kl"])


def test_each_sample_has_its_own_condition_in_every_batch():
    sde = sd.VP()

    def denoise(x, t, cond):
        return jnp.broadcast_to(cond[:, None], x.shape).astype(x.dtype)

    problem = Problem(
        "labels",
        sd.from_x0(sde, denoise),
        (2,),
        lambda key, num: jnp.zeros((num, 2)),
        conditions=jnp.asarray,
    )
    made = measure.run(problem, compare_candidate("ddim", sde), jax.random.key(0), 10, batch=4)
    np.testing.assert_allclose(made.x[:, 0], np.arange(10), atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Broken(samplers.DDIM):
    """DDIM that loses one sample."""

    def step(self, *args):
        state = super().step(*args)
        return state._replace(x=state.x.at[0].set(jnp.nan))


def test_a_row_that_is_not_finite_is_kept_and_marked(tmp_path):
    made = compare("gaussian", [Broken(), samplers.DDIM()], (5,), num=NUM, out=tmp_path)
    assert len(made) == 2
    assert made[0]["finite"] == 1 - 1 / NUM
    assert math.isnan(made[0]["wasserstein2"])
    assert "some samples are not finite" in table(made, ["wasserstein2"])
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["wasserstein2"] is None
    assert "class=&quot;broken&quot;" not in (tmp_path / "report.html").read_text()
    assert 'class="broken"' in (tmp_path / "report.html").read_text()


class TestFolder:
    def test_holds_a_report_that_needs_nothing_else(self, rows, folder):
        page = (folder / "report.html").read_text()
        assert page.count("<svg") >= 4
        assert "ddim(eta=1.0)" in page
        assert 'src="' not in page
        assert 'href="http' not in page.replace('xlink:href="#', "")

    def test_holds_the_pictures_and_the_rows(self, rows, folder):
        names = {path.name for path in folder.iterdir()}
        wanted = {"rms.png", "sliced_wasserstein.png", "error_apart.png", "results.json"}
        assert wanted <= names
        lines = (folder / "results.csv").read_text().splitlines()
        assert len(lines) == 1 + len(rows)

    @pytest.mark.usefixtures("no_report")
    def test_another_model_of_the_same_name_has_rows_of_its_own(self, tmp_path):
        def data(key, num):
            return jax.random.normal(key, (num, 2))

        def of(mean):
            model = sd.analytic.Gaussian.of(jnp.full(2, mean), jnp.array(1.0)).model(sd.VP())
            return Problem("mine", model, event=(2,), data=data)

        first, second = (
            compare(of(mean), "ddim", (5,), num=20, out=tmp_path) for mean in (0.0, 5.0)
        )
        assert first[0]["mean_error"] < 0.5 * second[0]["mean_error"]
        (again,) = compare(of(5.0), "ddim", (5,), num=20, out=tmp_path)
        assert (again["id"], again["seconds"]) == (second[0]["id"], second[0]["seconds"])

    def test_rows_that_were_there_stay_in_the_report(self, tmp_path):
        for solver in ("heun", "ddim"):
            compare("gaussian", solver, (5,), num=20, metrics=["mean_error"], out=tmp_path)
        report = (tmp_path / "report.html").read_text()
        assert "heun" in report
        assert "ddim" in report

    @pytest.mark.usefixtures("no_report")
    def test_rows_that_are_there_are_not_measured_again(self, rows, folder, monkeypatch):
        monkeypatch.setattr(measure, "_sampler", None)
        again = compare("gaussian", SOLVERS, (5, 11), num=NUM, out=folder)
        assert [r["id"] for r in again] == [r["id"] for r in rows]
        assert again[0]["rms"] == rows[0]["rms"]

    @pytest.mark.usefixtures("no_report")
    def test_goes_on_where_it_was_interrupted(self, tmp_path):
        seen = []

        def interrupted(todo):
            yield todo[0]
            raise KeyboardInterrupt

        def noted(todo):
            seen.extend(c.label for c in todo)
            return todo

        arguments = ("gaussian", "ddim,heun", (5,))
        with pytest.raises(KeyboardInterrupt):
            compare(*arguments, num=NUM, out=tmp_path, progress=interrupted)
        compare(*arguments, num=NUM, out=tmp_path, progress=noted)
        assert seen == ["heun"]

    def test_rows_come_back_as_they_were(self, tmp_path):
        row = {"id": "a", "budget": None, "rms": math.nan, "kl": math.inf, "nfe": 5.0}
        row |= {"denoise_last": False}
        store.save(tmp_path, [row])
        (back,) = store.load(tmp_path / "results.json")
        assert math.isnan(back.pop("rms"))
        assert back == {
            "id": "a",
            "budget": None,
            "kl": math.inf,
            "nfe": 5.0,
            "denoise_last": False,
        }

    def test_rows_with_and_without_the_last_denoising_are_told_apart(self, tmp_path):
        common = {"num": 20, "metrics": ["mean_error"], "out": tmp_path}
        compare("gaussian", "ddim", (5,), **common)
        rows = compare("gaussian", "ddim", (5,), denoise_last=(True, False), **common)
        assert [(row["denoise_last"], row["steps"]) for row in rows] == [(True, 4), (False, 5)]
        assert rows[0]["rms"] != rows[1]["rms"]
        assert table(rows, ["mean_error"]).count("log_snr, not denoised") == 1
        assert "<td>log_snr, not denoised</td>" in (tmp_path / "report.html").read_text()

    @pytest.mark.usefixtures("no_report")
    def test_rows_of_a_version_that_always_denoised_are_known_again(self, rows, folder, tmp_path):
        text = json.loads((folder / "results.json").read_text())
        for before in text["rows"]:
            del before["denoise_last"]
        (tmp_path / "results.json").write_text(json.dumps(text))
        again = compare("gaussian", SOLVERS, (5, 11), num=NUM, out=tmp_path)
        assert [r["seconds"] for r in again] == [r["seconds"] for r in rows]

    @pytest.mark.usefixtures("no_report")
    def test_other_rows_are_kept(self, tmp_path):
        for solvers in ("ddim", "heun"):
            compare("gaussian", solvers, (5,), num=NUM, metrics=["mmd"], out=tmp_path)
        kept = json.loads((tmp_path / "results.json").read_text())["rows"]
        assert [r["solver"] for r in kept] == ["ddim", "heun"]

    def test_a_file_that_is_not_ours_is_left_alone(self, tmp_path):
        (tmp_path / "results.json").write_text("precious")
        with pytest.raises(ValueError, match="not the results of a comparison"):
            compare("gaussian", "ddim", (5,), num=NUM, out=tmp_path)
        assert (tmp_path / "results.json").read_text() == "precious"
