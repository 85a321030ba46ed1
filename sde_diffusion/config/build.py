"""Builds the values that a config describes. The code that uses them never sees a config."""

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sde_diffusion import (
    data,
    distributed,
    fitting,
    grids,
    guidance,
    networks,
    noise,
    objectives,
    samplers,
    sdes,
    selection,
)
from sde_diffusion import parameterization as parameterizations
from sde_diffusion.config import (
    adapters,
    autoencoders,
    codecs,
    conditions,
    flow_maps,
    losses,
    optimizers,
    prior,
    text_encoders,
)
from sde_diffusion.config.schema import fields
from sde_diffusion.flow_map import from_flow_map_network
from sde_diffusion.model import Model, from_network
from sde_diffusion.objectives import time_density
from sde_diffusion.sdes import SDE, Array
from sde_diffusion.training import (
    Recipe,
    Run,
    StepOptions,
    read_compiler_options,
)

Batch = dict[str, Array]


def sde(config: ConfigDict) -> SDE:
    return selection.build("sde", config.sde.name, sdes.KINDS, fields(config.sde))


def sampling_t_min(config: ConfigDict) -> float | None:
    """The time at which samplers stop, config.sampling.t_min; None for that of the SDE."""
    process, t_min = sde(config), config.sampling.t_min
    if t_min is None:
        return None
    low, high = float(process.t_min), float(process.t_max)
    if not isinstance(t_min, int | float) or not low <= t_min < high:
        raise ValueError(
            f"config.sampling.t_min must be None or from config.sde's t_min of {low:g} to below "
            f"its t_max of {high:g}, got {t_min!r}"
        )
    return float(t_min)


def network(config: ConfigDict) -> nn.Module | text_encoders.WithText:
    """The network of a config, behind its text encoders where they are parts of it."""
    if autoencoders.is_autoencoder(config):
        return autoencoders.codec(config).module
    told = "numbers" in config.network
    numbers = {"numbers": flow_maps.numbers(config)} if told else {}
    made = _network(config.network.name, tuple((fields(config.network) | numbers).items()))
    if text_encoders.trained(config):
        return text_encoders.before(config, made)
    return made


@functools.cache
def _network(name: str, given: tuple[tuple[str, Any], ...]) -> nn.Module:
    # Cached, because a model's structure is compared by the identity of its network: a new object
    # would be compiled again.
    return networks.build(name, **dict(given))


def parameterization(config: ConfigDict) -> parameterizations.Parameterization:
    group = config.parameterization
    known = parameterizations.PARAMETERIZATIONS
    made = selection.build("parameterization", group.name, known, fields(group))
    labels, chain = getattr(made, "num_scales", None), sde(config).num_scales
    if labels is not None and chain is not None and labels != chain:
        raise ValueError(
            f"config.parameterization.num_scales is {labels}, but config.sde has a chain of "
            f"{chain} times, whose labels are 0 to {chain - 1}"
        )
    return made


def source(config: ConfigDict) -> data.Source:
    """The data; with config.data.tokens its texts are tokenized as well.

    Not where the network takes embeddings of them: then an encoder has tokens of its own.
    """
    loaded = prior.joined(config, data.load(config.data.source.name, **fields(config.data.source)))
    length = config.data.tokens
    if length is None or conditions.reads_text(config):
        return loaded
    known = {"bytes": _in_bytes, "words": _in_words}
    tokenize = selection.choose("config.data.tokenizer", config.data.tokenizer, known)
    return tokenize(config, loaded, length)


def _in_bytes(config: ConfigDict, loaded: data.Source, length: int) -> data.Source:
    del config
    return data.tokenized(loaded, length)


def _in_words(config: ConfigDict, loaded: data.Source, length: int) -> data.Source:
    vocabulary = config.network.get("vocabulary")
    if vocabulary is None:
        raise ValueError("config.data.tokenizer 'words' needs a network with a vocabulary")
    return data.in_words(loaded, length, vocabulary, config.data.words)


def record_names(config: ConfigDict, features: data.Features) -> list[str]:
    """The entries of a record that training uses: the event and the network's conditions."""
    event = ["mean", "deviation"] if codecs.is_latent(features) else [features.event_name]
    return [*event, *conditions.entries(config).values(), *prior.entries(config)]


def scaling(config: ConfigDict, features: data.Features) -> data.Scaling:
    return data.Scaling(*features.event.range, *config.data.range)


def init_params(config: ConfigDict, event: tuple[int, ...]) -> Callable[[Array], Any]:
    """key -> parameters, for samples of shape `event`."""
    net: Any = network(config)
    if autoencoders.is_autoencoder(config):
        return lambda key: net.init(key, jnp.zeros((1, *event)))["params"]
    cond = conditions.example(config, event)
    if told := flow_maps.numbers(config):
        named = cond if isinstance(cond, dict) else {} if cond is None else {"label": cond}
        cond = named | {name: jnp.zeros((1,)) for name in told}

    def init(key: Array) -> Any:
        x, t = jnp.zeros((1, *event)), jnp.ones((1,))
        return net.init(key, x, t, cond)["params"]

    return init


def is_conditional(config: ConfigDict) -> bool:
    """Whether the network is conditioned on a class."""
    return "label" in conditions.names(config)


def model(config: ConfigDict, params: Any) -> Model:
    """The model with these parameters; its condition is what `conditions.cond` gives.

    A student of a guided teacher is told the weight config.sampling.guidance.weight.
    """
    made = _model(config, network(config).apply, params)
    if flow_maps.weights(config) is None:
        return made
    return objectives.told_weight(made, flow_maps.require_weight(config))


def guided(config: ConfigDict, trained: Model) -> Model:
    """The trained model under config.sampling.guidance, for samplers.

    A student of a guided teacher was told the weight by `model`, and is not changed.

    Raises ValueError where the network has no conditions, or was always told one of them.
    """
    group = config.sampling.guidance
    if not isinstance(group.weight, int | float) or not math.isfinite(group.weight):
        raise ValueError(
            f"config.sampling.guidance.weight (--guidance) must be a number, got {group.weight!r}"
        )
    if group.weight == 1 or flow_maps.weights(config) is not None:
        return trained
    if flow_maps.is_flow_map(config):
        raise ValueError(
            "--guidance: this flow map is not told a weight; distill --guidance LOW,HIGH makes one "
            "that is"
        )
    weight, batched = float(group.weight), group.batched
    outside = trained
    if is_guided_by_embeddings(config):
        made = guidance.away_from(trained, weight, batched=batched)
        outside = guidance.away_from(trained, 1.0, batched=batched)  # of the same two conditions
    else:
        null = null_for_guidance(config)
        made = guidance.classifier_free(trained, weight, null=null, batched=batched)
    if group.interval is None:
        return made
    low, high = group.interval
    return guidance.interval(made, outside, float(low), float(high))


def is_guided_by_embeddings(config: ConfigDict) -> bool:
    """Whether the model is guided away from the embeddings of no text.

    Its cond is then {"negative": ..., "positive": ...}.
    """
    return conditions.reads_text(config) and config.sampling.guidance.weight != 1.0


def null_for_guidance(config: ConfigDict) -> Any:
    """What stands for no condition; ValueError where guidance has no such branch.

    That is where the network has no conditions, or was always told one of them.
    """
    null = conditions.null(config)
    if not null:
        raise ValueError("--guidance: the network of this run is told no condition")
    for name in null:
        if config.conditions[name].drop == 0:
            raise ValueError(
                f"--guidance: the network was never trained without its {name} "
                f"(config.conditions.{name}.drop is 0)"
            )
    return conditions.cond(null)


def _model(config: ConfigDict, apply: Callable[..., Any], params: Any) -> Model:
    process, parameters = sde(config), parameterization(config)
    if not flow_maps.is_flow_map(config):
        return from_network(process, apply, {"params": params}, parameters)
    two_times = networks.two_times(apply)
    return from_flow_map_network(process, two_times, {"params": params}, parameters)


def objective(
    config: ConfigDict,
    features: data.Features,
    teacher: flow_maps.Teacher | None = None,
    codec: codecs.FrozenCodec | None = None,
) -> objectives.Objective:
    """The objective on batches of records; it uses `frozen["teacher"]` and `frozen["codec"]`."""
    net, read = network(config), samples(config, features, codec)
    if autoencoders.is_autoencoder(config):
        return autoencoders.objective(config, lambda key, batch: read(key, batch, None)[0])

    def trained(params: Any, key_dropout: Array) -> Model:
        return _model(config, partial(net.apply, train=True, rngs={"dropout": key_dropout}), params)

    if not flow_maps.is_flow_map(config):
        made = objectives.denoising_objective(trained, read, losses.loss(config))
        return prior.weighted(made) if prior.entries(config) else made
    chosen, group = flow_maps.loss(config), config.loss.times
    options: dict[str, Any] = {"weighting": losses.weighting(config)} if chosen.weighted else {}
    if chosen.timed:
        options["times"] = time_density.TIMES[group.name](**fields(group))
    function: Callable[..., Array] = partial(chosen.loss, **options)
    weights = flow_maps.weights(config)
    if weights is not None:
        null = conditions.cond(conditions.null(config))
        guide = partial(guidance.classifier_free, null=null)
        function = objectives.guided(function, guide, *weights)
    return objectives.flow_map_objective(
        trained,
        read,
        function,
        steps=config.training.steps,
        teacher=None if teacher is None else lambda frozen: teacher.model(frozen["teacher"]),
        by_average=chosen.by_average,
    )


def samples(
    config: ConfigDict, features: data.Features, codec: codecs.FrozenCodec | None = None
) -> Callable[[Array, Batch, Any], tuple[Array, Any]]:
    """(key, batch, frozen) -> (x0, cond): flipped, dequantized, scaled, conditions dropped.

    Latents are drawn anew from their Gaussians, which images have by `frozen["codec"]`.
    """
    scale = scaling(config, codecs.sampled(features, codec))
    read, drop = conditions.of_records(config, features), conditions.drop(config)
    beside = conditions.entries(config).get("image")
    event = codecs.read(features, codec)

    def of_batch(key: Array, batch: Batch, frozen: Any) -> tuple[Array, Any]:
        keys = noise.sample_keys(key, len(batch[features.event_name]))
        if config.data.flip:  # by the same keys, so what is beside x is mirrored when x is
            flipped = {name for name in (features.event_name, beside) if name in batch}
            mirror = partial(data.random_flip, noise.fold_in(keys, 0))
            batch = {**batch, **{name: mirror(batch[name]) for name in flipped}}
        x = event(noise.fold_in(keys, 1), batch, frozen)
        if config.data.dequantize:
            x = data.dequantize(noise.fold_in(keys, 1), x, scale.low, scale.high)
        x0 = scale.scale(x)
        no_text = (frozen or {}).get(conditions.NO_TEXT)
        return x0, conditions.cond(drop(keys, read(keys, batch, x0), no_text))

    return of_batch


def recipe(
    config: ConfigDict,
    features: data.Features,
    teacher: flow_maps.Teacher | None = None,
    codec: codecs.FrozenCodec | None = None,
    base: Any = None,
    no_text: Any = None,
) -> Recipe:
    """What `training.train` trains and how, on records with these features.

    `base` has the parameters that config.lora adapts, by default their shapes alone. `no_text` has
    what takes the place of a text that is dropped, by default zeros.
    """
    frozen = codecs.frozen(features, codec)
    if no_text is not None:
        frozen[conditions.NO_TEXT] = no_text
    if teacher is not None:
        frozen["teacher"] = teacher.params
    made = Recipe(
        init_params(config, codecs.sampled(features, codec).event.shape),
        objective(config, features, teacher, codec),
        optimizers.optimizer(config),
        config.optim.ema_rates,
        frozen=frozen or None,
        learning_rate=optimizers.learning_rate(config),
        options=StepOptions(
            accumulate=config.optim.accumulate,
            gather_dtype=config.network.dtype,
            compiler_options=read_compiler_options(config.training.compiler_options),
        ),
    )
    return adapters.adapted(config, made, base) if adapters.has_adapters(config) else made


def run(config: ConfigDict) -> Run:
    """The length of training, and when records and checkpoints are written."""
    training = config.training
    return Run(
        training.steps,
        config.seed,
        steps_per_call=training.steps_per_call,
        log_every=training.log_every,
        checkpoint_every=training.checkpoint_every,
        keep=training.keep,
        keep_every=training.keep_every,
        keep_best=training.keep_best,
    )


def solver(config: ConfigDict) -> samplers.Solver:
    """The solver, with a corrector before each of its steps if the config has one."""
    group, corrector = config.sampling.solver, config.sampling.corrector
    if group.name == "fitted":
        predictor = fitting.load(group.path, sde(config))
    else:
        predictor = samplers.named(group.name, **fields(group))
    if corrector.name == "none":
        return predictor
    known = samplers.CORRECTORS
    return samplers.PredictorCorrector(
        predictor, selection.build("corrector", corrector.name, known, fields(corrector))
    )


def grid(config: ConfigDict) -> Array | None:
    """The time grid of config.sampling; None for a fitted solver, which has its own."""
    if config.sampling.solver.name == "fitted":
        return None
    flow_maps.require_sampling(config)
    steps = config.sampling.steps
    if steps < 1:
        raise ValueError(f"config.sampling.steps (--steps) must be at least 1, got {steps}")
    group = config.sampling.grid
    t_min = sampling_t_min(config)
    return grids.named(group.name, sde(config), steps, t_min=t_min, **fields(group))


def mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of config.mesh over all devices of all hosts, or over the given devices."""
    return distributed.make_mesh(**config.mesh, devices=devices)
