"""The training step of configs/emoji.py on a CPU, over that of the same network in PyTorch.

    pip install '.[bench]'
    python experiments/benchmarks/emoji_step.py [--repeats 7] [--json emoji_step.json]

A batch of 32 drawings at 64x64 with texts of 13 tokens, computed in bfloat16 with float32
parameters: loss, gradient, its clipping, Adam and EMA. PyTorch's network has our parameters, and
its output is compared with ours first, in float32. It is timed as it is and as `torch.compile`
makes it, under autocast to bfloat16 and in float32. Ours is the step of `train_step.py`. All are
timed in turn, in the same run, and the ratio is that of the medians; the least times, which a busy
machine disturbs less, are given beside it.

Before that, the rates of both libraries are measured for the matrix products of a layer, forward,
each alone, in bfloat16. The ratio of our step to PyTorch's in bfloat16, divided by that of the
products' times, tells what is not the libraries' own routines for products. Aim: at most 1, and no
slower than the fastest of PyTorch's.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_text_dit
import train_step

from sde_diffusion import data
from sde_diffusion.config import build
from sde_diffusion.config import schema as configs
from sde_diffusion.networks.product import product

EVENT, STEPS, WORDS = (64, 64, 3), 2, 2000
# The products of a wide layer and of a fine one: rows, summed over, columns.
PRODUCTS = [(512, 384, 1152), (512, 384, 1536), (512, 1536, 384), (2048, 128, 512)]
PATH = Path(__file__).parents[2] / "configs/emoji.py"
CONFIG = configs.load(PATH, {"training.steps_per_call": str(STEPS)})
BATCH = CONFIG.training.batch_size


def captioned() -> data.Source:
    """Noise with texts of as many different words as the config's vocabulary has."""
    rng, num = np.random.default_rng(0), 4 * BATCH
    words = [f"word{i}" for i in range(WORDS)]
    text = [" ".join(rng.choice(words, CONFIG.data.tokens)) for _ in range(num)]
    pixels = rng.integers(256, size=(num, *EVENT), dtype=np.uint8)
    source = data.from_arrays("noise", {"image": pixels, "text": np.array(text)})
    return data.in_words(source, CONFIG.data.tokens, CONFIG.network.vocabulary)


def check(params) -> None:
    """The two networks compute the same; otherwise there is nothing to compare."""
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + 0.03 * rng.standard_normal(p.shape, np.float32), params)
    config = configs.load(PATH, {"network.dtype": "float32"})
    x, t = rng.standard_normal((3, *EVENT), np.float32), np.array([-0.5, 0.1, 1.0], np.float32)
    tokens = rng.integers(1, WORDS, (3, CONFIG.data.tokens)).astype(np.int32)
    tokens[1, 4:] = tokens[2] = 0
    apply = jax.jit(build.network(config).apply)
    ours = np.asarray(apply({"params": params}, x, t, {"tokens": tokens}))
    network = torch_network(params)
    with torch.no_grad():
        theirs = network(*map(torch.tensor, (x, t, tokens))).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def torch_network(params):
    ours = build.network(configs.load(PATH, {"network.dtype": "float32"}))
    network = torch_text_dit.TorchTextDiT(ours, EVENT, CONFIG.data.tokens)
    torch_text_dit.load(network, params)
    return network


def torch_step(params, batch, *, compiled: bool, narrow: bool):
    """`run()` makes STEPS steps in PyTorch."""
    network = torch_network(params)
    apply = torch.compile(network) if compiled else network
    parameters, optim = list(network.parameters()), CONFIG.optim
    average = [p.detach().clone() for p in parameters]
    betas = (optim.b1, optim.b2)
    optimizer = torch.optim.Adam(parameters, lr=optim.lr, betas=betas, eps=optim.eps, fused=True)
    x0 = torch.tensor(batch["image"]).float() / 127.5 - 1
    tokens, std = torch.tensor(batch["tokens"]), CONFIG.parameterization.sigma_data
    times = CONFIG.loss.times

    def update() -> None:
        sigma = torch.exp(times.mean + times.std * torch.randn(BATCH)).clamp(times.t_min, 80.0)
        x = x0 + sigma[:, None, None, None] * torch.randn_like(x0)
        told = tokens * (torch.rand(BATCH, 1) > CONFIG.conditions.tokens.drop)
        variance = sigma**2 + std**2
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            made = apply(x / variance.sqrt()[:, None, None, None], sigma.log() / 4, told)
        loss = (variance / (sigma * std) ** 2 * ((made - x0) ** 2).mean((1, 2, 3))).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - optim.ema_rates[0])

    def run() -> None:
        for _ in range(STEPS):
            update()

    return run


def rates(repeats: int) -> dict[str, float]:
    """Seconds of the products of PRODUCTS, one after another, in JAX and in PyTorch."""
    rng = np.random.default_rng(0)
    pairs = [(rng.standard_normal((m, k)), rng.standard_normal((k, n))) for m, k, n in PRODUCTS]
    ours = [tuple(jnp.asarray(each, jnp.bfloat16) for each in pair) for pair in pairs]
    theirs = [tuple(torch.tensor(each, dtype=torch.bfloat16) for each in pair) for pair in pairs]
    # As in the network: a bfloat16 input with a parameter, whose result is rounded to bfloat16.
    times = jax.jit(lambda x, w: product(x, w.astype(jnp.float32)).astype(x.dtype))
    runs = {
        "jax": lambda: jax.block_until_ready([times(x, w) for x, w in ours]),
        "torch": lambda: [x @ w for x, w in theirs],
    }
    for run in runs.values():
        run()
    with torch.no_grad():
        taken = [{name: seconds(run) for name, run in runs.items()} for _ in range(repeats)]
    return {name: min(each[name] for each in taken) for name in runs}


def seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    versions = f"jax {jax.__version__}, torch {torch.__version__}"
    print(f"{train_step.hardware(jax.devices()[0])}, {versions}", flush=True)
    bare, source = rates(20 * args.repeats), captioned()
    of_products = bare["jax"] / bare["torch"]
    told = " / ".join(f"{name} {value * 1e3:.2f} ms" for name, value in bare.items())
    print(f"bare products: {told} = {of_products:.3f}", flush=True)

    params = jax.jit(build.init_params(CONFIG, EVENT))(jax.random.key(0))
    check(params)
    step = train_step.prepare(CONFIG, source)
    print(f"compilation: {step.compile_seconds:.0f} s", flush=True)
    batch = data.take(source, np.arange(BATCH))
    runs = {"ours": step.call}
    for compiled in (False, True):
        for narrow in (True, False):
            name = f"PyTorch, {'compiled' if compiled else 'eager'}"
            name += f", {'bfloat16' if narrow else 'float32'}"
            runs[name] = torch_step(params, batch, compiled=compiled, narrow=narrow)
    for run in runs.values():
        run()
        run()
    taken = [
        {name: seconds(run) / STEPS for name, run in runs.items()} for _ in range(args.repeats)
    ]
    row = {"bare products": bare | {"ratio": of_products}}
    for summary, reduce in (("median", statistics.median), ("least", min)):
        found = {name: reduce([each[name] for each in taken]) for name in runs}
        theirs = {name: value for name, value in found.items() if name != "ours"}
        best = min(theirs, key=theirs.__getitem__)
        ratio = found["ours"] / found[best]
        narrow = found["ours"] / min(v for name, v in theirs.items() if name.endswith("bfloat16"))
        row[summary] = found | {"ratio": ratio, "quotient": narrow / of_products}
        print(f"{summary}: " + ", ".join(f"{name} {value:.3f} s" for name, value in found.items()))
        print(f"  ours / {best} = {ratio:.3f}; ours / PyTorch's in bfloat16 = {narrow:.3f}")
        print(f"  that over the ratio of the bare products = {narrow / of_products:.3f}")
    if args.json:
        args.json.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
