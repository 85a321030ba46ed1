"""A pretrained folder as the base of a run: its network, SDE and parameterization as a config.

The loss is that of the model's own training: the mean squared error of what the network predicts,
at uniform times of the chain; or, for a flow, at times with normal logits (Esser et al. 2024, sec.
3.1). The autoencoder is the codec, and the text encoders are those of config.text.
"""

import dataclasses
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sde_diffusion import networks
from sde_diffusion.config import schema
from sde_diffusion.pretrained import part
from sde_diffusion.pretrained.convert import INDEX
from sde_diffusion.pretrained.flow_schedule import LABELS
from sde_diffusion.pretrained.folder import read_json
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.schedule import PREDICTIONS, chain
from sde_diffusion.selection import choose

# The part that is trained, its class, and the guidance by default, by the pipeline's class.
TRAINED = {
    "StableDiffusionPipeline": ("unet", "UNet2DConditionModel", 7.5),
    "StableDiffusionXLPipeline": ("unet", "UNet2DConditionModel", 5.0),
    "StableDiffusion3Pipeline": ("transformer", "SD3Transformer2DModel", 7.0),
    "FluxPipeline": ("transformer", "FluxTransformer2DModel", 1.0),
}


def is_pretrained(path: str) -> bool:
    """Whether a path is a folder of a pipeline as diffusers writes it."""
    return bool(path) and (Path(path) / INDEX).is_file()


def network_part(path: str) -> tuple[Path, part.Kind]:
    """The folder of the network that is trained, and its class; ValueError for other pipelines."""
    name = read_json(Path(path) / INDEX).get("_class_name", "none")
    if name not in TRAINED:
        raise ValueError(f"{path}: a {name} is not trained (choices: {', '.join(TRAINED)})")
    folder, kind, _ = TRAINED[name]
    return Path(path) / folder, KINDS[kind]


def config_of(path: str) -> ConfigDict:
    """The config of a run whose network is that of a pretrained folder.

    Raises ValueError for a pipeline that is not supported.
    """
    folder, kind = network_part(path)
    config, made = read_json(folder / "config.json"), schema.default().unlock()
    module = part.build(kind, config, source=str(folder))
    own = [field.name for field in dataclasses.fields(module)]
    fields = {name: getattr(module, name) for name in own if name not in ("parent", "name")}
    known = {network: name for name, network in networks.NETWORKS.items()}
    made.network = schema.choice("network", known[type(module)], **fields)
    made.codec.path = made.text.path = path
    _set_process(made, read_json(Path(path) / "scheduler" / "scheduler_config.json"))
    pipeline = read_json(Path(path) / INDEX)["_class_name"]
    made.sampling.guidance.weight = TRAINED[pipeline][2]
    made.sampling.batch_size = 4
    made.data.source = schema.choice("data.source", "folder", path="", size=_pixels(path, config))
    return made.lock()


def _set_process(config: ConfigDict, scheduler: dict[str, Any]) -> None:
    if scheduler.get("_class_name") == "FlowMatchEulerDiscreteScheduler":
        config.sde = schema.choice("sde", "flow")
        config.parameterization = schema.choice("parameterization", "flow", num_scales=LABELS + 1)
        config.loss.weighting = schema.choice("loss.weighting", "constant", on="velocity")
        config.loss.times = schema.choice("loss.times", "logit_normal")
        config.sampling.solver = schema.choice("sampling.solver", "ddim")
        config.sampling.grid = schema.choice("sampling.grid", "uniform")
        return
    name, fields = chain(scheduler)
    config.sde = schema.choice("sde", "tabulated", schedule=name, **fields)
    predicted = scheduler.get("prediction_type", "epsilon")
    kind = choose("prediction_type", predicted, PREDICTIONS)
    config.parameterization = schema.choice(
        "parameterization", kind, num_scales=fields["num_scales"]
    )
    on = {"ddpm": "eps", "v": "v"}[kind]
    config.loss.weighting = schema.choice("loss.weighting", "constant", on=on)
    config.loss.times = schema.choice("loss.times", "chain")


def _pixels(path: str, network: dict[str, Any]) -> int:
    """Along an axis of the pictures that the network was trained on."""
    codec = read_json(Path(path) / "vae" / "config.json")
    factor = 2 ** (len(codec["block_out_channels"]) - 1)
    size = network.get("sample_size") or 64
    if network.get("_class_name") == "FluxTransformer2DModel":
        return 1024
    return int(size if isinstance(size, int) else size[0]) * factor
