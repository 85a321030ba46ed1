"""Whole pipelines against diffusers, given the same noise: guidance, negative texts, two prompts.

The folders and pictures are made by experiments/pretrained/reference.py, with random weights.
"""

import dataclasses
import functools
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion import pretrained
from sde_diffusion.guidance import away_from
from sde_diffusion.model import Model
from sde_diffusion.pretrained.schedule import read_schedule
from sde_diffusion.samplers import Counted

FOLDERS = Path(__file__).parents[1] / "reference" / "pretrained"
NAMES = ["sd15", "sd21", "sdxl"]
# Those of the script.
PROMPTS = ["a red fox", "the little house on the hill, at night"]
NEGATIVE = ["blurry", ""]
STEPS, GUIDANCE = 5, 4.0
KEY = jax.random.key(0)
TOLERANCE = 1e-3

SCHEDULERS = {
    "ddim": {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False},
    "euler": {"_class_name": "EulerDiscreteScheduler"},
    "pndm": {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False},
    "dpmpp_2m_karras": {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True},
}


@pytest.mark.parametrize(
    ("steps", "times"),
    [(1, [999, 0]), (2, [999, 499, 0]), (4, [999, 759, 499, 259, 0])],
)
def test_the_times_of_a_consistency_model_are_those_of_lcmscheduler(steps, times):
    schedule = read_schedule({"_class_name": "LCMScheduler", "clip_sample": False})
    assert schedule.grid(steps)[0].tolist() == times
    with pytest.raises(ValueError, match="takes 1 to 50: 51"):
        schedule.grid(51)


@functools.cache
def pipeline(name):
    return pretrained.load(FOLDERS / name)


@functools.cache
def outputs(name):
    return dict(np.load(FOLDERS / name / "outputs.npz"))


def scheduled(name, scheduler):
    """The pipeline with the scheduler of another class, on the same chain, as the script has it."""
    config = json.loads((FOLDERS / name / "scheduler" / "scheduler_config.json").read_text())
    kept = ("beta_start", "beta_end", "beta_schedule", "prediction_type", "steps_offset")
    config = {key: config[key] for key in kept} | {"timestep_spacing": "leading"}
    schedule = read_schedule(config | SCHEDULERS[scheduler])
    pipe = pipeline(name)
    model = dataclasses.replace(pipe.model, sde=schedule.sde)
    return dataclasses.replace(pipe, model=model, grid=schedule.grid, solver=schedule.solver)


@functools.cache
def compiled(name):
    """The guided model, compiled once for all solvers."""
    return jax.jit(away_from(pipeline(name).model, GUIDANCE))


def step_by_step(pipe, name, negative, round_times=False):
    """Latents by the steps of the pipeline's solver, each of which calls the compiled model.

    With round_times the network is told the nearest whole time, as DPMSolverMultistepScheduler
    does; the SDE's levels are those of the time itself.
    """

    def function(params, sde, x, t, cond):
        label = jnp.round(t) if round_times else t
        made = compiled(name)(x, label, cond)
        return dataclasses.replace(made, t=t, sde=sde)

    model = Model(pipe.model.sde, function)
    x = jnp.asarray(outputs(name)["noise"])
    texts = {"negative": negative, "positive": PROMPTS}
    cond = {branch: pipe.text(each, 2, (16, 16)) for branch, each in texts.items()}
    grid, denoises = pipe.grid(STEPS)
    state = pipe.solver.init(x, grid, denoises)
    for t, s in itertools.pairwise(grid):
        state = pipe.solver.step(None, Counted(model), state, t, s, cond)
    return model(state.x, grid[-1], cond).x0 if denoises else state.x


def assert_same(ours, name, picture):
    theirs = outputs(name)[f"picture.{picture}"]
    assert np.std(theirs) > 0.05
    assert np.max(np.abs(ours - theirs)) < TOLERANCE


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerAncestralDiscreteScheduler"])
def test_fields_that_only_another_scheduler_has_change_nothing(name):
    config = {"_class_name": name, "clip_sample": False}
    others = {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}
    assert read_schedule(config | others) == read_schedule(config)


def test_eulers_last_step_is_not_what_the_scheduler_before_it_had():
    config = {"_class_name": "EulerDiscreteScheduler", "set_alpha_to_one": False}
    assert read_schedule(config).to_data


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_those_of_diffusers(name, scheduler):
    pipe = scheduled(name, scheduler)
    latents = step_by_step(pipe, name, NEGATIVE, round_times="karras" in scheduler)
    assert_same(pipe.decode(latents), name, scheduler)


@pytest.mark.parametrize("name", NAMES)
def test_without_negative_texts(name):
    pipe = scheduled(name, "ddim")
    assert_same(pipe.decode(step_by_step(pipe, name, None)), name, "no_negative")


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_in_one_call_with_the_folder_s_own_scheduler(name):
    pipe = pipeline(name)
    start = pipe.grid(STEPS)[0][0]
    # EulerDiscreteScheduler with "linspace" starts with sigma times noise, and others with noise.
    scale = pipe.model.sde.sigma(start) if name == "sdxl" else 1.0
    made = pipe.sample(
        KEY,
        PROMPTS,
        negative=NEGATIVE,
        guidance=GUIDANCE,
        steps=STEPS,
        size=(16, 16),
        x_init=scale * jnp.asarray(outputs(name)["noise"]),
    )
    assert_same(made, name, "own")
