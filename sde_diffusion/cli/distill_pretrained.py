"""distill --pretrained: a pretrained pipeline in a few evaluations, whole or as adapters.

A pretrained network has one time, so its student is a consistency model: it learns where the flow
of the guided teacher ends, and new noise is added between the steps (Luo et al. 2023, LCM). Texts
are encoded, and images made latents, as batches are read; the step of training sees the results.

With a data source the student learns from its images under their captions. Without one it learns
from prompts alone, by `trajectory`: the teacher's own samples, each kept with the noise that it
came from and the times between. Samples without their noise would be a worse data set.
"""

import dataclasses
import shutil
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sde_diffusion import distributed, lora, objectives, training
from sde_diffusion.cli import claim, pretrained, pretrained_batches, run, taken_over
from sde_diffusion.cli.say import say
from sde_diffusion.config import adapters, build, flow_maps, optimizers
from sde_diffusion.config import schema as configs
from sde_diffusion.flow_map import to_the_data
from sde_diffusion.guidance import away_from
from sde_diffusion.model import Model
from sde_diffusion.pipeline import Pipeline, Size
from sde_diffusion.sdes import Tabulated
from sde_diffusion.training import init_from
from sde_diffusion.tree_names import named

# Fields of a config that mean something here.
GROUPS = ("flow_map", "optim", "training", "lora", "mesh", "data.source", "seed")
OBJECTIVES = ("trajectory", "consistency")
TOLD_FEATURES = 256  # by which the weight is told, as in published LCMs
Guidance = float | tuple[float, float] | None


def distill(args: Namespace, guidance: Guidance, overrides: dict[str, str]) -> None:
    """Train a student of a pretrained pipeline in a folder, or resume the training there."""
    # ---- All that can be wrong is found before the folder is touched.
    _require_fits(args, guidance, overrides)
    out = run.folder(args.out, "--out")
    pipe = pretrained.load(args)
    _require_student(args, pipe, guidance)
    source = pretrained_batches.source(args, overrides)
    config = configs.override(_config(args, pipe, guidance, source is not None), overrides)
    if config.lora.rank is not None:
        for problem in adapters.problems_of_fields(config):
            raise ValueError(problem)
    batches, described, size = pretrained_batches.batches(args, config, pipe, source)
    teacher = _Teacher.of(config, pipe, size)
    recipe = _recipe(config, teacher)
    planned, mesh = build.run(config), build.mesh(config)
    distributed.check_batch_size(mesh, config.training.batch_size)
    shapes = jax.eval_shape(recipe.init_params, jax.random.key(0))
    if claim.steps_of(out) and not args.overwrite:
        taken_over.require_same(config, out, recipe)

    # ---- The folder, and the run.
    for line in claim.claim(out, config, described, overwrite=args.overwrite):
        say(line)
    run.enable_cache()
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    what = "a whole student" if config.lora.rank is None else f"adapters of rank {config.lora.rank}"
    where = "prompts" if source is None else f"images of {source.name}"
    say(f"{what} of {count:,} parameters, on {described.records:,} {where} of {size[0]}x{size[1]}")
    begin = None if config.lora.rank is not None else teacher.start
    outcome = training.train(recipe, planned, batches, out, mesh=mesh, start=begin)
    done = int(outcome.state.step)
    if outcome.preempted:
        say(f"stopped at step {done} of {config.training.steps}; the same command goes on")
    elif distributed.is_first_process():
        params = jax.tree.map(np.asarray, run.sampling_params(outcome.state))
        say(f"trained to step {done}: {_write(args, config, Path(out), params)}")


# ---- What is asked for.


def _require_fits(args: Namespace, guidance: Guidance, overrides: dict[str, str]) -> None:
    for field in overrides:
        if not any(field == group or field.startswith(f"{group}.") for group in GROUPS):
            raise ValueError(
                f"--config.{field}: with --pretrained only {', '.join(GROUPS)} can be set"
            )
    if "lora.rank" in overrides:
        raise ValueError("--config.lora.rank: with --pretrained it is --lora RANK")
    if args.objective not in (None, *OBJECTIVES):
        raise ValueError(
            f"--objective {args.objective}: a pretrained network has one time, for which there are "
            f"{', '.join(OBJECTIVES)}"
        )
    if "://" in args.out:
        raise ValueError(f"--out {args.out}: with --pretrained it must be a folder of this machine")
    if args.lora is None and not Path(args.pretrained).is_dir():
        raise ValueError(
            f"--pretrained {args.pretrained}: a whole student is written like a folder; convert "
            "--to diffusers makes one, or give --lora RANK"
        )
    if args.lora is not None and isinstance(guidance, tuple):
        raise ValueError(
            "--guidance LOW,HIGH with --lora: a network is told the weight by a layer of its own, "
            "which adapters have no place for; give one weight"
        )


def _require_student(args: Namespace, pipe: Pipeline, guidance: Guidance) -> None:
    if pipe.text is None or pipe.fills_in:
        what = "takes no text" if pipe.text is None else "fills in a part of a picture"
        raise ValueError(f"--pretrained {args.pretrained} {what}, which distill cannot teach from")
    if pipe.model.mapping is not None:
        raise ValueError(f"--pretrained {args.pretrained} is a consistency model itself")
    if args.lora is None and not isinstance(pipe.model.sde, Tabulated):
        raise ValueError(
            f"--pretrained {args.pretrained}: whole students are U-Nets of Stable Diffusion and "
            "SDXL, sampled by LCMScheduler; give --lora RANK"
        )
    if isinstance(guidance, tuple) and not hasattr(_module(pipe.model), "time_cond_proj_dim"):
        raise ValueError(
            f"--guidance LOW,HIGH: the network of {args.pretrained} has no place for the weight; "
            "give one weight"
        )


def _config(args: Namespace, pipe: Pipeline, guidance: Guidance, has_data: bool) -> ConfigDict:
    """The config of the student; what `distill` does not read of it stays at its default.

    For adapters the learning rate, the number of steps and Huber's loss are those of diffusers'
    example of LCM-LoRA.
    """
    objective = args.objective or ("consistency" if has_data else "trajectory")
    if objective != "trajectory" and not has_data:
        raise ValueError(
            f"--objective {objective} learns from data: set --config.data.source.name, or leave "
            "the objective out to learn from the teacher's own samples"
        )
    fields: dict[str, dict[str, Any]] = {
        "trajectory": {"grid": "uniform", "to_end": 1.0},
        "consistency": {"schedule": "karras(steps=50)", "solver": "ddim", "huber": 0.001},
    }
    if isinstance(pipe.model.sde, Tabulated):
        chain = pipe.model.sde.num_scales
        fields["consistency"]["schedule"] = f"skipping(num_scales={chain}, skip={chain // 50})"
    config = configs.default().unlock()
    config.flow_map = configs.choice("flow_map", objective, **fields[objective])
    config.teacher.path = args.pretrained
    config.teacher.guidance = pipe.guidance if guidance is None else guidance
    config.lora.update(rank=args.lora, names="*/kernel" if args.lora is not None else "*")
    config.optim.update(lr=8e-6 if args.lora is None else 1e-4, warmup=0, ema_rates=(0.95,))
    config.training.update(batch_size=8, steps=1000, log_every=10, checkpoint_every=250)
    config.sampling.solver = configs.choice("sampling.solver", "flow_map", gamma=1.0)
    return config.lock()


# ---- What is trained.


@dataclasses.dataclass(frozen=True)
class _Teacher:
    """The teacher, and the student that begins at it.

    model: of latents. student: the same with the student's network, which may be told the weight.
    null: the condition without a text, [1, ...], where the teacher is guided by two branches.
    """

    model: Model
    student: Model
    null: Any
    weight: float

    @classmethod
    def of(cls, config: ConfigDict, pipe: Pipeline, size: Size) -> "_Teacher":
        weights, weight = flow_maps.weights(config), flow_maps.fixed_weight(config)
        guided = weights is not None or (weight != 1.0 and not pipe.told)
        assert pipe.text is not None  # `_require_student`
        null = pipe.text(None, 1, size) if guided else None
        student = pipe.model if weights is None else _told(pipe.model)
        return cls(pipe.model, student, null, 1.0 if weight is None else weight)

    def guided(self, model: Model, null: Any, weight: Any) -> Model:
        """negative + w (positive - negative); its cond is the text's alone."""
        return Model(model.sde, _under_text, (away_from(model, weight), null))

    def start(self, state: training.TrainState) -> training.TrainState:
        """The state that begins at the teacher's parameters."""
        theirs = named(self.model.params["params"])

        def read(wanted: Any) -> dict[str, jax.Array]:
            # Copies, because the training step donates the state's buffers.
            arrays = {name: jnp.array(theirs[name], leaf.dtype) for name, leaf in wanted.items()}
            return {k: jax.device_put(array, wanted[k].sharding) for k, array in arrays.items()}

        shapes = {name: leaf.shape for name, leaf in theirs.items()}
        stored = init_from.Stored("the teacher", shapes, read)
        return init_from.start(state, stored, tuple(shapes))


def _under_text(params: Any, sde: Any, x: Any, t: Any, cond: Any) -> Any:
    guided, null = params
    negative = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(x), *leaf.shape[1:])), null)
    return guided(x, t, {"negative": negative, "positive": cond})


def _recipe(config: ConfigDict, teacher: _Teacher) -> training.Recipe:
    rest = {name: leaf for name, leaf in teacher.student.params.items() if name != "params"}
    base, chosen = teacher.model.params["params"], flow_maps.loss(config)
    frozen = {"teacher": base}
    if teacher.null is not None:
        frozen["null"] = teacher.null
    loss, weights = chosen.loss, flow_maps.weights(config)

    def taught(frozen: Any) -> Model:
        model = dataclasses.replace(teacher.model, params={**rest, "params": frozen["teacher"]})
        if "null" not in frozen or weights is not None:
            return model
        return teacher.guided(model, frozen["null"], teacher.weight)

    def student(params: Any, key: Any) -> Model:
        return to_the_data(dataclasses.replace(teacher.student, params={**rest, "params": params}))

    def under_weights(*given: Any, frozen: Any, **options: Any) -> Any:
        guide = partial(teacher.guided, null=frozen["null"])
        told = objectives.guided(loss, lambda model, w: guide(model, weight=w), *weights or ())
        return told(*given, **options)

    def objective(params: Any, key: Any, batch: Any, *, frozen: Any, **options: Any) -> Any:
        function = loss if weights is None else partial(under_weights, frozen=frozen)
        made = objectives.flow_map_objective(
            student,
            lambda key, batch, frozen: (batch["latent"], batch["cond"]),
            function,
            steps=config.training.steps,
            teacher=taught,
            by_average=chosen.by_average,
        )
        return made(params, key, batch, frozen=frozen, **options)

    recipe = training.Recipe(
        partial(_zeros, _shapes(teacher, weights is not None)),
        objective,
        optimizers.optimizer(config),
        config.optim.ema_rates,
        frozen=frozen,
        learning_rate=optimizers.learning_rate(config),
        options=training.StepOptions(accumulate=config.optim.accumulate),
    )
    return recipe if config.lora.rank is None else adapters.adapted(config, recipe, base)


def _zeros(shapes: Any, key: Any) -> Any:
    del key  # `_Teacher.start` puts the teacher's parameters in; what it lacks begins at zero
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)


def _shapes(teacher: _Teacher, told: bool) -> Any:
    """The shapes of the student's parameters."""
    params = teacher.model.params["params"]
    if not told:
        return params
    features = params["time_embedding"]["linear_1"]["kernel"].shape[0]
    layer = {"kernel": jax.ShapeDtypeStruct((TOLD_FEATURES, features), jnp.float32)}
    return {**params, "time_embedding": {**params["time_embedding"], "cond_proj": layer}}


# ---- The network of a pipeline's model, and of a student that is told the weight.


def _module(model: Model) -> Any:
    """The module whose `apply` the model calls."""
    function: Any = model.function
    return getattr(function.args[0].func, "__self__", None)


def _told(model: Model) -> Model:
    """The model whose network is told the weight of its guidance."""
    function: Any = model.function
    module = _module(model).clone(time_cond_proj_dim=TOLD_FEATURES)
    given = (jax.tree_util.Partial(module.apply), *function.args[1:])
    return dataclasses.replace(model, function=jax.tree_util.Partial(function.func, *given))


# ---- The result.


def _write(args: Namespace, config: ConfigDict, out: Path, params: Any) -> str:
    """Write the student, and say how it is sampled."""
    from sde_diffusion.pretrained import lora_files, save
    from sde_diffusion.pretrained.consistency import CONSISTENCY, NOTE
    from sde_diffusion.pretrained.folder import read_json

    part, told = "unet", flow_maps.weights(config) is not None
    folder = Path(args.pretrained)
    if folder.is_dir() and not (folder / part).is_dir():
        part = "transformer"
    if config.lora.rank is not None:
        scaled = jax.tree.map(np.asarray, lora.scale(params, adapters.share(config)))
        lora_files.write(out / run.ADAPTERS, {part: scaled}, notes={NOTE: CONSISTENCY})
        return f"sample --pretrained {args.pretrained} --lora {out / run.ADAPTERS} --steps 4"
    lcm = {"_class_name": "LCMScheduler", "original_inference_steps": 50, "clip_sample": False}
    changed: dict[str, dict[str, Any]] = {"scheduler/scheduler_config.json": lcm}
    if told:
        changed[f"{part}/config.json"] = {"time_cond_proj_dim": TOLD_FEATURES}
        index = read_json(folder / "model_index.json")
        if index["_class_name"] == "StableDiffusionPipeline":
            changed["model_index.json"] = {"_class_name": "LatentConsistencyModelPipeline"}
    student = out / run.STUDENT
    shutil.rmtree(student, ignore_errors=True)  # of an earlier end of this run
    save(student, folder, {part: params}, configs=changed)
    return f"sample --pretrained {student} --steps 4"
