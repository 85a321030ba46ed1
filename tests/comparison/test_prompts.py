"""compare_prompts: solvers on a small pretrained pipeline, against a fine solution."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import comparison, grids, noise, pipeline, samplers
from sde_diffusion.comparison.prompts import fine_times

MEANS = jnp.array([[0.6, -0.3, 0.1], [-0.5, 0.4, 0.3], [0.1, 0.9, -0.8]])


@dataclasses.dataclass(frozen=True)
class Half:
    """A codec whose pictures are half as large in value as its latents."""

    factor = 2

    def encode(self, params, key, x):
        return 2.0 * x

    def decode(self, params, z):
        return 0.5 * z


def texts(prompts, num, size):
    """The condition of a text is its length, and that of none is 0."""
    told = [""] * num if prompts is None else prompts
    return {"shift": jnp.asarray([float(len(text)) for text in told])}


def mixture(sde):
    """The model of a mixture of Gaussians in every latent, moved by the condition."""
    exact = sd.analytic.GaussianMixture.of(MEANS, 0.8).model(sde)

    def x0(x, t, cond):
        shift = 0.1 * cond["shift"][:, None, None, None]
        centred = x - sde.alpha(t)[:, None, None, None] * shift
        flat = exact(centred.reshape(-1, 3), jnp.repeat(t, x[0].size // 3)).x0
        return flat.reshape(x.shape) + shift

    return sd.from_x0(sde, x0)


def made(sde):
    def own(steps, size=None):
        return grids.cosine(sde, steps - 1), True

    return pipeline.Pipeline(
        mixture(sde), Half(), None, texts, own, samplers.DDIM(), (4, 4), 3, guidance=2.0
    )


@pytest.fixture(scope="module")
def vp():
    return made(sd.VP())


PROMPTS = ["a red fox", "a house"]


@pytest.fixture(scope="module")
def rows(vp, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    found = comparison.compare_prompts(
        vp, PROMPTS, ["ddim", "dpmpp_2m", "heun"], (6, 12), negative="blurry", fine=40, out=folder
    )
    return folder, found


def test_a_row_has_the_distance_of_what_the_pipeline_draws(vp, rows):
    _, found = rows
    (row,) = (
        row
        for row in found
        if (row["solver"], row["grid"], row["budget"]) == ("dpmpp_2m", "karras", 12)
    )
    assert row["nfe"] == 24  # both branches of guidance
    sde = vp.model.sde
    options = {"negative": "blurry", "size": vp.size}
    ends = {
        steps: vp.latents(noise.key(0), PROMPTS, solver=solver, grid=grid(sde, steps), **options).x
        for steps, solver, grid in (
            (11, samplers.DPMSolverPP2M(), grids.karras),
            (40, samplers.UniPC(), grids.log_snr),
        )
    }
    distance = np.sqrt(np.mean((ends[11] - ends[40]) ** 2))
    assert row["rms"] == pytest.approx(distance, rel=1e-3)
    shown = {steps: vp.decode(x) for steps, x in ends.items()}
    distance = np.sqrt(np.mean((shown[11] - shown[40]) ** 2))
    assert row["rms_pictures"] == pytest.approx(distance, rel=1e-3)


def test_more_evaluations_and_higher_orders_are_nearer(rows):
    _, found = rows
    rms = {(row["solver"], row["grid"], row["budget"]): row["rms"] for row in found}
    assert len(rms) == 3 * 2 * 2
    for grid in ("own", "karras"):
        for solver in ("ddim", "heun"):
            assert rms[solver, grid, 12] < 0.8 * rms[solver, grid, 6]
        assert rms["dpmpp_2m", grid, 12] < 0.8 * rms["ddim", grid, 12]
    assert found[0]["reference_error"] < 0.02 * min(rms.values())


def test_the_table_begins_with_the_best_of_each_budget(rows):
    _, found = rows
    lines = comparison.prompts_table(found).splitlines()
    assert lines[0].split()[:4] == ["solver", "grid", "budget", "nfe"]
    assert [line.split()[2] for line in lines[1:-1]] == ["6"] * 6 + ["12"] * 6
    shown = [float(line.split()[4]) for line in lines[7:-1]]
    assert shown == sorted(shown)
    assert lines[-1].startswith("the fine solution")


def test_results_and_pictures_are_left_and_rows_not_measured_again(vp, rows):
    folder, found = rows
    assert {path.name for path in folder.iterdir()} == {
        *("results.json", "results.csv", "rms.png", "pictures.png", "pictures")
    }
    stored = json.loads((folder / "results.json").read_text())["rows"]
    again = []

    def note(todo):
        again.extend(todo)
        return todo

    same = comparison.compare_prompts(
        vp, PROMPTS, ["ddim", "euler"], (6,), negative="blurry", fine=40, out=folder, progress=note
    )
    assert {candidate.label for candidate in again} == {"euler"}
    assert [row for row in same if row["solver"] == "ddim"] == [
        row for row in found if row["solver"] == "ddim" and row["budget"] == 6
    ]
    assert len(json.loads((folder / "results.json").read_text())["rows"]) == len(stored) + 2


def test_all_are_those_that_can_be_compared(vp):
    found = comparison.compare_prompts(vp, ["x"], "all", (5,), grids=["own"], fine=20)
    names = {row["solver"] for row in found}
    assert {"ddim", "unipc", "heun", "dpmpp_3m"} <= names
    assert not names & {"euler_maruyama", "ancestral", "ode", "dpm_adaptive", "sa_solver"}
    assert all(row["finite"] == 1.0 for row in found)


@pytest.mark.parametrize("sde", [sd.VP(), sd.Flow()], ids=["vp", "flow"])
def test_the_fine_times_reach_from_end_to_end(sde):
    times = np.asarray(fine_times(sde, 50))
    assert len(times) == 51
    assert times[0] == np.float32(sde.t_max)
    assert times[-1] == np.float32(sde.t_min)
    assert np.all(np.diff(times) < 0)
    levels = np.asarray(sde.log_snr(jnp.asarray(times)))[1:]
    np.testing.assert_allclose(np.diff(levels), np.diff(levels).mean(), rtol=2e-2)


def test_a_flow_starts_without_signal():
    pipe = made(sd.Flow())
    found = comparison.compare_prompts(
        pipe, ["a"], ["euler", "dpmpp_2m"], (10,), guidance=1.0, fine=40
    )
    assert {row["grid"] for row in found} == {"own"}
    assert all(row["nfe"] == 10 for row in found)
    assert all(0 < row["rms"] < 0.2 for row in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solvers": ["ancestral"]}, "ancestral draws noise or chooses its steps"),
        ({"solvers": ["dpm_adaptive"]}, "draws noise or chooses its steps"),
        ({"solvers": ["dpmm"]}, "unknown solver 'dpmm'"),
        ({"solvers": ["heun"], "nfe": (2,)}, "needs nfe of at least 3"),
        ({"fine": 1}, "fine must be at least 2 steps"),
        ({"size": (3, 4)}, "size must be a multiple of 2, got 3x4"),
        ({"negative": "x", "guidance": 1.0}, "negative texts have no effect"),
    ],
)
def test_what_cannot_be_compared_is_refused(vp, options, message):
    with pytest.raises(ValueError, match=message):
        comparison.compare_prompts(vp, ["a"], **{"solvers": ["ddim"], **options})
