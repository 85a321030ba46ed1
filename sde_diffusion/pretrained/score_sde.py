"""Networks and weights of score_sde (https://github.com/yang-song/score_sde), Song et al. 2021."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn
from flax.traverse_util import unflatten_dict

from sde_diffusion import networks
from sde_diffusion.selection import choose, unknown

_COMMON = (
    "nf",
    "ch_mult",
    "num_res_blocks",
    "attn_resolutions",
    "dropout",
    "nonlinearity",
    "conditional",
    "resamp_with_conv",
    "scale_by_sigma",
    "sigma_min",
    "sigma_max",
    "num_scales",
)
_NCSNPP = (
    "embedding_type",
    "fourier_scale",
    "resblock_type",
    "fir",
    "fir_kernel",
    "progressive",
    "progressive_input",
    "progressive_combine",
    "skip_rescale",
    "init_scale",
)
FIELDS = {"ddpm": _COMMON, "ncsnpp": (*_COMMON, *_NCSNPP)}
"""The fields of a model config that each of its networks reads, which are ours of the same name."""

FIXED = {"normalization": "groupnorm", "attention_type": "ddpm", "conv_size": 3}
"""Fields with one value in every published config of these networks, the only one that is built."""

IGNORED = ("name", "ema_rate", "beta_min", "beta_max", "sigma_begin")
"""Fields that say nothing about the network."""


def build_network(
    model_config: Mapping[str, Any], *, centered: bool | None = None, **fields: Any
) -> nn.Module:
    """The network of a score_sde model config, with the parameter tree of the reference.

    centered: the config's data.centered, which the network depends on. If None it is what all the
    published configs have: False where the output is scaled by sigma (variance exploding, data in
    [0, 1]) and True elsewhere. A mapping with the model config under "config" may hold it as well.
    fields: those that the reference lacks, such as dtype, remat, num_classes.

    Raises ValueError for a field that is unknown or has a value not supported.
    """
    if "config" in model_config:
        if centered is None:
            centered = model_config.get("centered")
        model_config = model_config["config"]
    name = model_config["name"].lower()
    read = choose("network of score_sde", name, FIELDS)
    config = {k: v.lower() if isinstance(v, str) else v for k, v in model_config.items()}
    # DDPM is given the fields of NCSN++ by some configs, and does not read them.
    known = {*FIELDS["ncsnpp"], *FIXED, *IGNORED}
    for field, value in config.items():
        if field not in known:
            raise ValueError(unknown("field of a score_sde model config", field, sorted(known)))
        if field in FIXED and value != FIXED[field]:
            raise ValueError(f"{field}: {value!r} is not supported (choices: {FIXED[field]!r})")
    given = {
        field: tuple(config[field]) if isinstance(config[field], list) else config[field]
        for field in read
        if field in config
    }
    if centered is None:
        centered = not config["scale_by_sigma"]
    if name == "ddpm":
        # 32 groups for any number of channels. Where nf is 32, a group is one channel, and the
        # normalization takes away what the time embedding has added to it.
        given["min_group_size"] = 1
    return networks.build(name, centered=centered, **given, **fields)


def load_params(file: str | os.PathLike[str]) -> dict[str, Any]:
    """The parameter tree in an .npz whose arrays are named params/PATH, with / between the levels.

    Raises ValueError for a file that holds no such array; never reads a pickle.
    """
    with np.load(file, allow_pickle=False) as arrays:
        flat = {tuple(k.split("/")[1:]): arrays[k] for k in arrays if k.startswith("params/")}
    if not flat:
        raise ValueError(f"{file}: no array is named params/...")
    return unflatten_dict(flat)
