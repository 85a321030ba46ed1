"""Checks of a config that run before a run's folder is touched."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sde_diffusion import data, distributed
from sde_diffusion import parameterization as parameterizations
from sde_diffusion.config import (
    adapters,
    autoencoders,
    build,
    codecs,
    conditions,
    flow_maps,
    judging,
    losses,
    prior,
)
from sde_diffusion.training import (
    TrainState,
    abstract_state,
    check_compiler_options,
    read_compiler_options,
)

log = logging.getLogger(__name__)

# The kind of a parameterization's time label: `sigma` is positive, the others may be 0 or negative.
LABELS = {
    **dict.fromkeys(("ddpm", "v", "flow"), "steps of a chain, from 0"),
    "smld": "levels of noise, from 0 for the highest",
    "ncsn": "sigma",
    **dict.fromkeys(("edm", "x0"), "log(sigma / alpha) / 4"),
}


def check(
    config: ConfigDict,
    features: data.Features,
    teacher: flow_maps.Teacher | None = None,
    codec: codecs.FrozenCodec | None = None,
) -> None:
    """Raise ValueError with everything that is wrong with a config for records of these features.

    It builds all that `train`, `sample` and `evaluate` build, and traces the objective on abstract
    arrays; nothing is computed, and no file is touched.
    """
    sampled = codecs.sampled(features, codec)
    found = [*problems(config, sampled), *codecs.problems(config, features, codec)]
    if not autoencoders.is_autoencoder(config):
        found += judging.problems(config, features)
    # A config that is refused above would also fail below, with a less helpful message.
    if not found:
        found = [*_failures(config, features, teacher, codec)]
    if found:
        raise ValueError("; ".join(found))
    for line in warnings(config, sampled):
        log.warning("%s", line)


def problems(config: ConfigDict, features: data.Features) -> Iterator[str]:
    """A line for each field that conflicts with another one, or with what is sampled."""
    yield from autoencoders.problems(config, features)
    if not autoencoders.is_autoencoder(config):
        yield from _denoiser_problems(config, features)
    yield from adapters.problems(config)
    yield from prior.problems(config)
    yield from _data_problems(config, features)
    yield from _step_problems(config)


def _denoiser_problems(config: ConfigDict, features: data.Features) -> Iterator[str]:
    yield from _loss_problems(config)
    yield from _flow_map_problems(config)
    yield from _label_problems(config)
    yield from _time_problems(config)
    yield from _network_problems(config, features)
    yield from _condition_problems(config, features)


def warnings(config: ConfigDict, features: data.Features) -> Iterator[str]:
    """A line for each choice that is allowed but rarely intended."""
    if autoencoders.is_autoencoder(config):
        return
    if codecs.is_latent(features) and not config.codec.path:
        yield (
            "the data are latents, and config.codec.path names no autoencoder: samples stay "
            "latents, and there are no pictures"
        )
    yield from _attention_warnings(config, features)
    process, weighting = build.sde(config), config.loss.weighting
    if config.loss.name != "denoising" or float(process.alpha(jnp.asarray(process.t_max))) > 1e-6:
        return
    on = losses.weighting(config).on
    if on in ("eps", "score"):
        yield (
            f"config.loss.weighting {weighting.name!r} is on the error of {on}, which is 0 at the "
            f"last time of config.sde {config.sde.name!r} (alpha = 0): nothing is learned there; "
            "loss.weighting.name=constant with loss.weighting.on=velocity is flow matching"
        )


def _attention_warnings(config: ConfigDict, features: data.Features) -> Iterator[str]:
    network, height = config.network, features.event.shape[0]
    heights = [height // 2**level for level in range(len(network.get("ch_mult", ())))]
    for resolution in network.get("attn_resolutions", ()):
        if resolution not in heights:
            yield (
                f"config.network.attn_resolutions has {resolution}, but images of height {height} "
                f"have levels of the heights {', '.join(map(str, heights))}: no level attends there"
            )


def _loss_problems(config: ConfigDict) -> Iterator[str]:
    name, sde, labels = config.loss.name, config.sde.name, config.parameterization.name
    wanted = {"ddpm": ("vp", ("ddpm", "v")), "smld": ("ve", ("smld",))}
    if name not in wanted:
        return
    sde_wanted, labels_wanted = wanted[name]
    if sde != sde_wanted:
        yield (
            f"config.loss.name {name!r} is a loss of the chain of config.sde.name {sde_wanted!r}, "
            f"not of {sde!r}: use loss.name 'denoising'"
        )
    if labels not in labels_wanted:
        yield (
            f"config.loss.name {name!r} needs config.parameterization.name "
            f"{' or '.join(map(repr, labels_wanted))}, not {labels!r}, whose labels are "
            f"{LABELS.get(labels)}"
        )


def _flow_map_problems(config: ConfigDict) -> Iterator[str]:
    name, solver = config.flow_map.name, config.sampling.solver.name
    if name in flow_maps.NEED_TEACHER and not config.teacher.path:
        yield f"config.flow_map.name {name!r} needs a teacher: set config.teacher.path to a run"
    if name == "none" and config.teacher.path:
        yield "config.teacher.path is set, and config.flow_map.name is 'none', which has no teacher"
    if config.teacher.guidance is not None and not config.teacher.path:
        yield "config.teacher.guidance is set, and config.teacher.path is not: nothing is guided"
    if name == "none" and solver == "flow_map":
        yield "config.sampling.solver.name 'flow_map' needs a network of config.flow_map"


def _label_problems(config: ConfigDict) -> Iterator[str]:
    network, labels = config.network, config.parameterization.name
    fourier = network.get("embedding_type") == "fourier"
    if fourier and labels != "ncsn":
        yield (
            "config.network.embedding_type 'fourier' takes the logarithm of the time label, and "
            f"config.parameterization.name {labels!r} has labels that may be 0 or negative "
            f"({LABELS.get(labels)}): use 'positional', or the parameterization 'ncsn'"
        )
    if not network.get("scale_by_sigma"):
        return
    if not fourier and labels != "smld":
        yield (
            "config.network.scale_by_sigma with embedding_type 'positional' divides by the noise "
            "level whose number the label is, which only config.parameterization.name 'smld' "
            f"counts, not {labels!r} ({LABELS.get(labels)}): set network.scale_by_sigma=False"
        )
    if labels == "smld" and config.sde.name != "ve":
        yield (
            "config.network.scale_by_sigma divides by the noise levels of config.sde.name 've', "
            f"not of {config.sde.name!r}: set network.scale_by_sigma=False"
        )
    elif labels == "smld":
        levels = {
            "sigma_min": config.sde.sigma_min,
            "sigma_max": config.sde.sigma_max,
            "num_scales": config.parameterization.num_scales,
        }
        for field, value in levels.items():
            if network[field] != value:
                group = "parameterization" if field == "num_scales" else "sde"
                yield (
                    f"config.network.{field} is {network[field]} and config.{group}.{field} "
                    f"{value}: scale_by_sigma needs the same noise levels"
                )


def _time_problems(config: ConfigDict) -> Iterator[str]:
    parameters, process = build.parameterization(config), build.sde(config)
    try:
        parameterizations.require_fits(parameters, process)
    except ValueError as error:
        yield (
            f"config.parameterization.name {config.parameterization.name!r} does not fit "
            f"config.sde.name {config.sde.name!r}: {error}"
        )


def _network_problems(config: ConfigDict, features: data.Features) -> Iterator[str]:
    network, event = config.network, features.event
    if "ch_mult" not in network:
        return
    if len(event.shape) != 3:
        yield (
            f"config.network.name {network.name!r} takes images [H, W, C], and "
            f"{features.event_name} has the shape {event.shape}"
        )
        return
    times = len(network.ch_mult) - 1
    if any(size % 2**times for size in event.shape[:2]):
        yield (
            f"config.network.ch_mult has {times + 1} levels, and images of "
            f"{event.shape[0]}x{event.shape[1]} cannot be halved {times} times"
        )


def _data_problems(config: ConfigDict, features: data.Features) -> Iterator[str]:
    event = features.event
    if config.data.flip and len(event.shape) != 3:
        yield (
            f"config.data.flip is for images [H, W, C], and {features.event_name} has the shape "
            f"{event.shape}"
        )
    if config.data.dequantize and event.dtype != "uint8":
        yield f"config.data.dequantize is for uint8, and {features.event_name} is {event.dtype}"


def _condition_problems(config: ConfigDict, features: data.Features) -> Iterator[str]:
    taken = conditions.names(config)
    if config.text.trained and not conditions.reads_text(config):
        yield f"config.text.trained: config.network {config.network.name!r} takes no embeddings"
    for name, group in config.conditions.items():
        where = f"config.conditions.{name}"
        if not 0 <= group.drop < 1:
            yield f"{where}.drop must be in [0, 1), got {group.drop}"
        if name == "text" and conditions.reads_text(config):
            yield from _embedding_problems(config, features)
        elif name in conditions.entries(config):
            yield from _entry_problems(config, features, name)
        elif name in taken:
            yield from _made_image_problems(config, features)
        elif group.drop != 0:
            yield f"{where}.drop is {group.drop}, and config.network takes no {name}"


def _embedding_problems(config: ConfigDict, features: data.Features) -> Iterator[str]:
    entries, shapes = conditions.entries(config), conditions.told(config)
    for name in shapes.keys() & entries.keys():
        if entries[name] not in features:
            yield (
                f"config.network {config.network.name!r} takes the embeddings of texts, and the "
                f"records have none, only {', '.join(features)}: set config.text.path to a "
                "pretrained folder, and give the pictures captions"
            )
            return
        shape = features[entries[name]].shape
        if len(shape) != len(shapes[name]) or shape[-1:] != shapes[name][-1:]:
            yield (
                f"the data's {entries[name]!r} has the shape {shape}, and config.network "
                f"{config.network.name!r} takes {shapes[name]}: embeddings of other encoders"
            )


def _made_image_problems(config: ConfigDict, features: data.Features) -> Iterator[str]:
    name, told = config.conditions.image.of.name, config.network.image_channels
    made = conditions.of_sample(config)
    assert made is not None
    try:
        made.measured(features.event.shape)
    except ValueError as error:
        yield f"config.conditions.image.of: {error}"
        return
    wanted = made.channels(features.event.shape[-1])
    if told != wanted:
        yield (
            f"config.network.image_channels is {told}, and config.conditions.image.of {name!r} "
            f"gives {wanted} channels"
        )


def _entry_problems(config: ConfigDict, features: data.Features, name: str) -> Iterator[str]:
    field = config.conditions[name].get("field", name)
    if field not in features:
        yield (
            f"config.network takes {name}, the entry {field!r} of a record, which has only "
            f"{', '.join(features)}"
        )
        return
    feature, network = features[field], config.network
    whole = jnp.issubdtype(jnp.dtype(feature.dtype), jnp.integer)
    if name == "label" and network.num_classes != feature.num_classes:
        yield (
            f"config.network.num_classes is {network.num_classes}, and the data's {field!r} has "
            f"{feature.num_classes or 'no'} classes"
        )
    if name == "tokens" and not (whole and len(feature.shape) == 1 and feature.low == 0):
        yield f"the data's {field!r} is {feature.dtype} of shape {feature.shape}, not tokens [L]"
    elif name == "tokens" and feature.range[1] + 1 != network.vocabulary:
        yield (
            f"config.network.vocabulary is {network.vocabulary}, and the data's {field!r} has "
            f"{feature.range[1] + 1:g} different tokens"
        )
    wanted = (*features.event.shape[:-1], network.get("image_channels"))
    if name == "image" and (feature.shape != wanted or feature.low is None):
        yield (
            f"config.network.image_channels is {network.image_channels}, and the data's {field!r} "
            f"has the shape {feature.shape} in place of {wanted}"
            + (", and no range" if feature.low is None else "")
        )


def _step_problems(config: ConfigDict) -> Iterator[str]:
    size, parts = config.training.batch_size, config.optim.accumulate
    if size < 1:
        yield f"config.training.batch_size must be at least 1, got {size}"
    elif parts < 1 or size % parts:
        yield (
            f"config.optim.accumulate is {parts}, which does not divide "
            f"config.training.batch_size {size}"
        )
    warmup, steps = config.optim.warmup, config.training.steps
    if steps >= 1 and not 0 <= warmup < steps:
        yield (
            f"config.optim.warmup is {warmup}, and must be at least 0 and below "
            f"config.training.steps, {steps}"
        )


def _failures(
    config: ConfigDict,
    features: data.Features,
    teacher: flow_maps.Teacher | None,
    codec: codecs.FrozenCodec | None,
) -> Iterator[str]:
    """A line for each part that cannot be built."""
    parts: list[Callable[[], object]] = [
        lambda: build.run(config),
        lambda: _check_devices(config),
        lambda: _trace_objective(config, features, teacher, codec),
    ]
    if not autoencoders.is_autoencoder(config):
        parts.append(lambda: (build.solver(config), build.grid(config)))
    for part in parts:
        try:
            part()
        except ValueError as error:
            yield " ".join(str(error).split())


def _check_devices(config: ConfigDict) -> None:
    mesh = build.mesh(config)
    distributed.check_batch_size(mesh, config.training.batch_size)
    options = read_compiler_options(config.training.compiler_options)
    check_compiler_options(options, mesh.devices.flat[0])


def _trace_objective(
    config: ConfigDict,
    features: data.Features,
    teacher: flow_maps.Teacher | None,
    codec: codecs.FrozenCodec | None,
) -> None:
    recipe = build.recipe(config, features, teacher, codec)
    size = config.training.batch_size // config.optim.accumulate
    batch = {
        name: jax.ShapeDtypeStruct((size, *features[name].shape), features[name].dtype)
        for name in build.record_names(config, features)
    }

    def loss(state: TrainState, key: jax.Array, batch: data.Batch, frozen: Any) -> jax.Array:
        options = {"frozen": frozen, "ema": state.ema, "step": state.step}
        return recipe.objective(state.params, key, batch, **options)[0]

    jax.eval_shape(loss, abstract_state(recipe), jax.random.key(0), batch, recipe.frozen)
