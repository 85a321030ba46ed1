"""Small transformers with random weights, and what diffusers and transformers make of them.

    venv/bin/python experiments/pretrained/reference_transformers.py

with the packages of reference.py. It writes tests/reference/pretrained/NAME for each NAME below: a
part's folder and outputs.npz with its inputs and outputs. No weight is zero. Latents are
[B, H, W, C]. It also writes tables/NAME.json for published configs: the name and shape of every
tensor, as [pattern, shape, [number in place of *, ...]].
"""

import argparse
import json
import re
import shutil
from collections.abc import Callable

import diffusers
import numpy as np
import torch
import transformers
from reference import TARGET, last, normal, randomize
from transformers.models.t5.modeling_t5 import T5Attention

Outputs = dict[str, np.ndarray]
T5_VOCABULARY = 300


def sd3(num_layers: int = 3, **fields: object) -> torch.nn.Module:
    return diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=num_layers,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        pos_embed_max_size=6,
        **fields,
    )


def flux(**fields: object) -> torch.nn.Module:
    return diffusers.FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 4, 2),
        **fields,
    )


def dit() -> torch.nn.Module:
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
    )


def t5() -> torch.nn.Module:
    config = transformers.T5Config(
        vocab_size=T5_VOCABULARY,
        d_model=16,
        d_kv=6,
        d_ff=24,
        num_layers=3,
        num_heads=3,
        feed_forward_proj="gated-gelu",
    )
    return transformers.T5EncoderModel(config)


def bert() -> torch.nn.Module:
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
    )
    return transformers.BertModel(config)


def text(config: object) -> Outputs:
    return {
        "text": last(normal(2, 2, 5, config.joint_attention_dim)),
        "pooled": last(normal(3, 2, config.pooled_projection_dim)),
    }


def sd3_outputs(model: torch.nn.Module) -> Outputs:
    x, t = normal(1, 2, 4, 10, 6), torch.tensor([981.5, 7.0])
    told = text(model.config)
    out = model(
        x,
        encoder_hidden_states=torch.tensor(told["text"]),
        pooled_projections=torch.tensor(told["pooled"]),
        timestep=t,
    ).sample
    return told | {"x": last(x), "t": t.numpy(), "out": last(out)}


def flux_outputs(model: torch.nn.Module) -> Outputs:
    pipe = diffusers.FluxPipeline
    x, t, guidance = normal(1, 2, 16, 10, 6), torch.tensor([981.5, 7.0]), torch.tensor([3.5, 1.0])
    told = text(model.config)
    out = model(
        pipe._pack_latents(x, 2, 16, 10, 6),
        encoder_hidden_states=torch.tensor(told["text"]),
        pooled_projections=torch.tensor(told["pooled"]),
        timestep=t / 1000,
        guidance=guidance if model.config.guidance_embeds else None,
        img_ids=pipe._prepare_latent_image_ids(2, 5, 3, "cpu", torch.float32),
        txt_ids=torch.zeros(5, 3),
    ).sample
    out = pipe._unpack_latents(out, 10, 6, 1)
    return told | {
        "x": last(x),
        "t": t.numpy(),
        "guidance": guidance.numpy(),
        "out": last(out),
    }


def dit_outputs(model: torch.nn.Module) -> Outputs:
    x, t, labels = normal(1, 2, 4, 8, 8), torch.tensor([981, 7]), torch.tensor([3, 1000])
    large = normal(2, 2, 4, 12, 12)
    return {
        "x": last(x),
        "t": t.numpy(),
        "labels": labels.numpy(),
        "out": last(model(x, timestep=t, class_labels=labels).sample),
        "large": last(large),
        "out_large": last(model(large, timestep=t, class_labels=labels).sample),
    }


def ids_and_mask(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 50, (2, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    return ids, mask


def t5_outputs(model: torch.nn.Module) -> Outputs:
    ids, mask = ids_and_mask(20)
    place = torch.arange(400)
    bucket = T5Attention._relative_position_bucket(place[None] - place[:, None])
    return {
        "ids": ids.numpy(),
        "mask": mask.numpy(),
        "out": last(model(ids).last_hidden_state),
        "out_masked": last(model(ids, attention_mask=mask).last_hidden_state),
        # Of the first token's distance to each, and of each to the first.
        "bucket": np.stack([bucket[0].numpy(), bucket[:, 0].numpy()]),
    }


def bert_outputs(model: torch.nn.Module) -> Outputs:
    ids, mask = ids_and_mask(20)
    segments = (torch.arange(20) > 8).int()[None].expand(2, 20)
    out = model(ids, attention_mask=mask, token_type_ids=segments)
    return {
        "ids": ids.numpy(),
        "mask": mask.numpy(),
        "segments": segments.numpy(),
        "out": last(out.last_hidden_state),
        "pooled": last(out.pooler_output),
    }


PARTS: dict[str, tuple[Callable, Callable]] = {
    "mmdit_sd3": (sd3, sd3_outputs),
    "mmdit_sd35": (lambda: sd3(5, qk_norm="rms_norm", dual_attention_layers=(0, 1)), sd3_outputs),
    "flux_dev": (lambda: flux(guidance_embeds=True), flux_outputs),
    "flux_schnell": (flux, flux_outputs),
    "dit": (dit, dit_outputs),
    "t5": (t5, t5_outputs),
    "bert": (bert, bert_outputs),
}


SD3 = {"joint_attention_dim": 4096, "pooled_projection_dim": 2048, "attention_head_dim": 64}
PUBLISHED: dict[str, tuple[type, dict[str, object]]] = {
    "sd3-medium": (
        diffusers.SD3Transformer2DModel,
        SD3
        | {
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 192,
        },
    ),
    "sd3.5-medium": (
        diffusers.SD3Transformer2DModel,
        SD3
        | {
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 384,
            "qk_norm": "rms_norm",
            "dual_attention_layers": tuple(range(13)),
        },
    ),
    "sd3.5-large": (
        diffusers.SD3Transformer2DModel,
        SD3
        | {
            "num_layers": 38,
            "num_attention_heads": 38,
            "caption_projection_dim": 2432,
            "pos_embed_max_size": 192,
            "qk_norm": "rms_norm",
        },
    ),
    "flux-dev": (diffusers.FluxTransformer2DModel, {"guidance_embeds": True}),
    "dit-xl-2": (diffusers.DiTTransformer2DModel, {"out_channels": 8}),
    "t5-v1.1-xxl": (
        transformers.T5EncoderModel,
        {
            "d_model": 4096,
            "d_kv": 64,
            "d_ff": 10240,
            "num_layers": 24,
            "num_heads": 64,
            "feed_forward_proj": "gated-gelu",
        },
    ),
    "minilm-l6": (
        transformers.BertModel,
        {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    ),
}


def write_table(name: str) -> None:
    kind, fields = PUBLISHED[name]
    with torch.device("meta"):
        if issubclass(kind, transformers.PreTrainedModel):
            model = kind(kind.config_class(**fields))
        else:
            model = kind(**fields)
    table: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for tensor, value in model.state_dict().items():
        # The first number of a name counts layers.
        number = re.search(r"\.(\d+)\.", tensor)
        pattern = re.sub(r"\.\d+\.", ".*.", tensor, count=1)
        table.setdefault((pattern, tuple(value.shape)), []).append(int(number[1]) if number else 0)
    told = {
        "class": kind.__name__,
        "config": fields,
        "tensors": [(*key, numbers) for key, numbers in table.items()],
    }
    path = TARGET / "tables" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(told) + "\n")
    print(f"{name}: {sum(value.numel() for value in model.state_dict().values()):,} numbers")


def write(name: str) -> None:
    make, outputs = PARTS[name]
    folder, model = TARGET / name, make().eval()
    shutil.rmtree(folder, ignore_errors=True)
    randomize(model, 0)
    for tensor in model.state_dict().values():  # buffers too are saved in float16
        tensor.copy_(tensor.half())
    with torch.no_grad():
        told = outputs(model)
    model.half().save_pretrained(folder)
    np.savez_compressed(folder / "outputs.npz", **told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[*PARTS, *PUBLISHED])
    args = parser.parse_args()
    for names, make in ((PARTS, write), (PUBLISHED, write_table)):
        for name in names:
            if args.only in (None, name):
                make(name)


if __name__ == "__main__":
    main()
