"""Files of low-rank adapters: those of diffusers, PEFT and kohya are read and written.

A file has two matrices for each adapted module, under the module's name and

    kohya              .lora_down.weight    .lora_up.weight     and .alpha
    diffusers, PEFT    .lora_A.weight       .lora_B.weight
    older diffusers    .lora.down.weight    .lora.up.weight     also _lora. and .lora_linear_layer.

and the change of the module is alpha / rank times the product of the second with the first. Without
an alpha it is the product. PEFT has its alpha in adapter_config.json beside the file, and diffusers
may have it in the file's header. `lora_names` says which module a name means. The factor is
multiplied into `up`, so that a tree of adapters is as `lora.merge` takes it.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sde_diffusion import lora
from sde_diffusion.pipeline import Pipeline
from sde_diffusion.pretrained import safetensors
from sde_diffusion.pretrained.consistency import CONSISTENCY, NOTE, as_consistency
from sde_diffusion.pretrained.lora_names import (
    KOHYA_T5,
    NETWORK,
    PREFIXES,
    SUFFIX,
    Modules,
    is_t5,
    table,
)
from sde_diffusion.pretrained.tensors import TO_OURS, TO_THEIRS, names_and_shapes, place
from sde_diffusion.selection import require_known
from sde_diffusion.tree_names import named

DOWN_OR_UP = re.compile(
    r"(?P<module>.+?)(?:\.lora_|(?P<processor>_lora)\.|\.lora\.|\.lora_linear_layer\.)"
    r"(?P<half>A|B|down|up)(?:\.default)?\.weight"
)
OTHER_METHODS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "Tucker's decomposition",
    "diff": "full differences",
    "oft_": "OFT",
}
HALVES = {False: ("lora_A", "lora_B"), True: ("lora_linear_layer.down", "lora_linear_layer.up")}
"""How diffusers writes the two matrices, of networks and of text encoders.

It reads lora_A and lora_B of text encoders as well, but not if their perceptrons alone have them.
"""
HEADER = "lora_adapter_metadata"  # where diffusers has alpha in the header of a file


class Pair(NamedTuple):
    """The two matrices of a module as in the file, [r, in, ...] and [out, r, ...]."""

    down: np.ndarray
    up: np.ndarray


def add_lora(pipe: Pipeline, file: str | os.PathLike[str], weight: float = 1.0) -> Pipeline:
    """The pipeline with the adapters of a file merged, their change multiplied by `weight`.

    Text encoders are adapted as well, where the file has adapters of them. Adapters of several
    files add up. With those that `distill --lora` wrote it samples in a few evaluations.

    Raises what `read` raises.

        pipe = add_lora(pretrained.load("stable-diffusion-v1-5"), "style.safetensors", 0.8)
    """
    encoders = encoders_of(pipe.text)
    params = {NETWORK: pipe.model.params["params"]}
    params |= {part: encoder.params for part, (_, encoder) in encoders.items()}
    found = {part: lora.scale(made, weight) for part, made in read(file, params).items()}
    changed = {part: lora.merge(params[part], made) for part, made in found.items()}
    model, text = pipe.model, pipe.text
    if NETWORK in changed:
        model = dataclasses.replace(model, params={**model.params, "params": changed[NETWORK]})
    for part, (field, encoder) in encoders.items():
        if part in changed:
            adapted = dataclasses.replace(encoder, params=changed[part])
            text = dataclasses.replace(text, **{field: adapted})  # type: ignore[type-var]
    pipe = dataclasses.replace(pipe, model=model, text=text)
    made_for = safetensors.metadata(file).get(NOTE)
    return as_consistency(pipe) if made_for == CONSISTENCY else pipe


def read(file: str | os.PathLike[str], params: Mapping[str, Any]) -> dict[str, lora.Adapters]:
    """The adapters in a file, by part.

    Args:
        file: safetensors, written by diffusers, PEFT or kohya's scripts.
        params: the parameters, or their shapes, of each part that may be adapted: "network",
            "text_encoder", "text_encoder_2" and "text_encoder_3".

    Raises FileNotFoundError, and ValueError, in one line, for a file of another kind, and where an
    adapter is of a module that the parts do not have or that has another shape.
    """
    pairs = _pairs(file)
    tables = {part: table(part, tree) for part, tree in params.items()}
    shapes = {part: names_and_shapes(tree) for part, tree in params.items()}
    found: dict[str, dict[str, Pair]] = {part: {} for part in params}
    bad = []
    for name, pair in pairs.items():
        part = next((part for part, known in tables.items() if name in known), None)
        if part is None:
            bad.append((name, pair, "none of that name"))
            continue
        wanted = [shapes[part][f"{module}{SUFFIX}"] for module in tables[part][name]]
        if not _fits(pair, wanted):
            bad.append((name, pair, " with ".join(map(str, wanted))))
            continue
        found[part] |= _split(pair, tables[part][name], [shape[0] for shape in wanted])
    if bad:
        name, pair, wanted_shape = bad[0]
        raise ValueError(
            f"{file}: {len(bad)} of {len(pairs)} adapters are of another base, the first of them "
            f"{name} of {pair.down.shape} and {pair.up.shape}: the matrix of this model is "
            f"{wanted_shape}"
        )
    return {part: _tree(params[part], of_part) for part, of_part in found.items() if of_part}


def write(
    file: str | os.PathLike[str],
    adapters: Mapping[str, lora.Adapters],
    *,
    form: str = "diffusers",
    dtype: Any = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write adapters: `read` gives the same ones again.

    Args:
        adapters: trees by the name of the part's folder, such as {"unet": ..., "text_encoder":
            ...}, with the names of diffusers in the trees.
        form: "diffusers", whose text encoders have the names of `HALVES`, or "kohya", with an alpha
            that is the rank.
        dtype: of the matrices in the file; by default their own.
        notes: texts by name for the file's header.

    Raises ValueError for an unknown form, and for an adapter of what is no kernel, such as a table
    of embeddings.
    """
    require_known("form of a file of adapters", form, ("diffusers", "kohya"))
    arrays: dict[str, np.ndarray] = {}
    for module, down, up in _modules(file, adapters):
        part, _, inner = module.partition(".")
        if form == "diffusers":
            first, second = HALVES[part.startswith("text_encoder")]
            arrays |= {f"{module}.{first}.weight": down, f"{module}.{second}.weight": up}
            continue
        name = f"{_kohya_prefix(part, inner, adapters)}{inner.replace('.', '_')}"
        arrays[f"{name}.lora_down.weight"], arrays[f"{name}.lora_up.weight"] = down, up
        arrays[f"{name}.alpha"] = np.array(down.shape[0], np.float32)
    safetensors.write(file, arrays, dtype=dtype, notes=notes)


def _modules(
    file: str | os.PathLike[str], adapters: Mapping[str, lora.Adapters]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The name PART.MODULE of each adapted module, and its matrices as files have them."""
    for part, tree in adapters.items():
        for name, pair in lora.by_name(tree).items():
            path = tuple(name.split("/"))
            if path[-1] != "kernel":
                raise ValueError(f"{file}: only kernels have a place in such files, not {name}")
            down, up = (np.asarray(pair[half]) for half in (lora.DOWN, lora.UP))
            where = place(path, down.shape)
            layers = zip(down, up, strict=True) if where.stacked else [(down, up)]
            for tensor, (one_down, one_up) in zip(where.names, layers, strict=True):
                yield f"{part}.{tensor.removesuffix(SUFFIX)}", _theirs(one_down), _theirs(one_up)


def _kohya_prefix(part: str, module: str, adapters: Mapping[str, lora.Adapters]) -> str:
    if part in ("unet", "transformer"):
        return f"lora_{part}_"
    if is_t5([module]):
        return KOHYA_T5
    several = not adapters.keys().isdisjoint(("transformer", "text_encoder_2"))
    return PREFIXES[part][1][1 if part == "text_encoder" and several else 0]


def _pairs(file: str | os.PathLike[str]) -> dict[str, Pair]:
    """The pairs of a file by the names of their modules, alpha / rank multiplied into `up`."""
    tensors = safetensors.read(file)
    halves: dict[str, dict[str, np.ndarray]] = {}
    alphas: dict[str, float] = {}
    for name, tensor in tensors.items():
        last = name.rpartition(".")[2] if not name.endswith(SUFFIX) else name.split(".")[-2]
        other = next((kind for part, kind in OTHER_METHODS.items() if last.startswith(part)), None)
        if match := DOWN_OR_UP.fullmatch(name):
            half = "down" if match["half"] in ("A", "down") else "up"
            halves.setdefault(_module(match), {})[half] = np.asarray(tensor, np.float32)
        elif name.endswith(".alpha"):
            alphas[name.removesuffix(".alpha").removesuffix("_lora")] = float(tensor)
        elif other is not None:
            raise ValueError(f"{file}: {name} is of {other}, and only LoRA is supported")
        else:
            raise ValueError(f"{file} is no file of adapters (LoRA): it has the tensor {name}")
    if not halves:
        raise ValueError(f"{file} is no file of adapters (LoRA): it is empty")
    pairs, share = {}, _shares(file)
    for module, pair in halves.items():
        if pair.keys() != {"down", "up"}:
            raise ValueError(f"{file}: of {module} there is {', '.join(pair)} alone")
        rank = pair["down"].shape[0]
        alpha = alphas.get(module)
        scale = share(module, rank) if alpha is None else alpha / rank
        pairs[module] = Pair(pair["down"], np.float32(scale) * pair["up"])
    return pairs


def _module(match: re.Match[str]) -> str:
    """The module's name; older files name the attention's processor in place of its layers."""
    if not match["processor"]:
        return match["module"]
    module = match["module"].replace(".processor.", ".")
    return f"{module}.0" if module.endswith(".to_out") else module


def _shares(file: str | os.PathLike[str]) -> Any:
    """share(module, rank): alpha / rank as the header or PEFT's config beside the file says it."""
    told: dict[str, Any] = json.loads(safetensors.metadata(file).get(HEADER, "{}"))
    config = Path(file).parent / "adapter_config.json"
    if Path(file).name == "adapter_model.safetensors" and config.is_file():
        told = {f"base_model.model.{key}": v for key, v in json.loads(config.read_text()).items()}

    def share(module: str, rank: int) -> float:
        part = next((key for key in _parts(told) if module.startswith(f"{key}.")), None)
        if part is None:
            return 1.0
        alpha = told[f"{part}.lora_alpha"]
        for pattern, value in (told.get(f"{part}.alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                alpha = value
        return float(alpha) / (math.sqrt(rank) if told.get(f"{part}.use_rslora") else rank)

    return share


def _parts(told: Mapping[str, Any]) -> list[str]:
    return [key.removesuffix(".lora_alpha") for key in told if key.endswith(".lora_alpha")]


def _fits(pair: Pair, wanted: list[tuple[int, ...]]) -> bool:
    """Whether a pair is of matrices of these shapes [out, in, ...], one above the other."""
    inner = {shape[1:] if len(shape) == pair.down.ndim else shape[1:2] for shape in wanted}
    given = pair.down.shape[1:]
    if math.prod(given[1:]) == 1 and all(math.prod(shape[2:]) == 1 for shape in wanted):
        given, inner = given[:1], {shape[1:2] for shape in wanted}  # 1x1: dense or convolution
    rows = sum(shape[0] for shape in wanted)
    return inner == {given} and pair.up.shape[:2] == (rows, pair.down.shape[0])


def _split(pair: Pair, modules: Modules, rows: list[int]) -> dict[str, Pair]:
    """The pair of each module, whose matrices are one above the other."""
    ups = np.split(pair.up, np.cumsum(rows)[:-1])
    return {module: Pair(pair.down, up) for module, up in zip(modules, ups, strict=True)}


def _tree(params: Any, pairs: Mapping[str, Pair]) -> lora.Adapters:
    """The adapters of a part; zeros fill lower ranks and scanned layers without an adapter."""
    made = {}
    for name, leaf in named(params).items():
        where = place(tuple(name.split("/")), leaf.shape)
        given = [pairs.get(tensor.removesuffix(SUFFIX)) for tensor in where.names]
        if where.leaf != "kernel" or all(pair is None for pair in given):
            continue
        rank = max(pair.down.shape[0] for pair in given if pair is not None)
        down_shape, up_shape = lora.shapes(name, leaf.shape, rank)
        downs, ups = np.zeros(down_shape, np.float32), np.zeros(up_shape, np.float32)
        for layer, pair in enumerate(given):
            if pair is not None:
                down, up = (downs[layer], ups[layer]) if where.stacked else (downs, ups)
                down[..., : len(pair.down)] = _ours(pair.down, down.ndim)
                up[..., : len(pair.down), :] = _ours(pair.up, up.ndim)
        made[name] = {lora.DOWN: downs, lora.UP: ups}
    return lora.nested(made)


def _ours(tensor: np.ndarray, axes: int) -> np.ndarray:
    """A tensor [a, b, ...] as [..., b, a] with so many axes; the others are 1 long."""
    padded = tensor.reshape(*tensor.shape, *(1,) * (axes - tensor.ndim))
    return padded.reshape(padded.shape[:axes]).transpose(TO_OURS[axes])


def _theirs(array: np.ndarray) -> np.ndarray:
    return array.transpose(TO_THEIRS[array.ndim])


def encoders_of(text: Any) -> dict[str, tuple[str, Any]]:
    """The encoders of a pipeline's text by part, each with the name of its field."""
    fields = [field.name for field in dataclasses.fields(text)]
    with_params = [name for name in fields if hasattr(getattr(text, name), "params")]
    parts = ("text_encoder", "text_encoder_2", "text_encoder_3")
    return {
        part: (name, getattr(text, name)) for part, name in zip(parts, with_params, strict=False)
    }
