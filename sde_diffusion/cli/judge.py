"""The judge of a run's pictures and captions: two towers, trained on the run's own data alone.

    score(picture, caption) = f(picture) . g(caption),   both of length 1

f is a small convolutional network, g a perceptron on the caption's words and their places, see
`networks.two_towers`. They learn to find the caption of a picture in a batch, and the picture of a
caption. In training the pictures are moved and noisy, so that single pixels decide nothing.

The caption's words are those of the texts themselves, whatever the run's tokenizer is. The judge is
trained once and kept in the run's folder, with a fingerprint of what it was trained on.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import serialization
from tqdm import tqdm

from sde_diffusion import data, objectives, training
from sde_diffusion.cli.say import say
from sde_diffusion.data.vocabulary import FIRST, vocabulary_of, word_tokens, words
from sde_diffusion.networks.two_towers import CaptionTower, PictureTower

FILE = "judge.msgpack"
# Of training; part of the fingerprint, as a judge of another recipe is another one.
BATCH, RATE, LOG_SCALE, NOISE, SHIFT = 128, 1e-3, 2.5, 0.3, 3 / 64
VOCABULARY, LENGTH = 8192, 64  # at most
APPLIED = 250  # pictures in one call
SHOWN = 50  # steps between two losses in the progress bar


class Captioned(NamedTuple):
    """Pictures [N, H, W, C] in the data's own units, the text of each, and the pictures' range."""

    pictures: np.ndarray
    texts: tuple[str, ...]
    range: tuple[float, float]

    def fingerprint(self, steps: int) -> str:
        """16 hexadecimal digits of all that the judge depends on."""
        recipe = (BATCH, RATE, LOG_SCALE, NOISE, SHIFT, VOCABULARY, LENGTH, steps)
        shape = (self.pictures.shape, str(self.pictures.dtype), self.range)
        found = hashlib.sha256(repr((recipe, shape, self.texts)).encode())
        found.update(np.ascontiguousarray(self.pictures).data)
        return found.hexdigest()[:16]


class Judge(NamedTuple):
    """The trained towers, the words that they know, and the range of the pictures."""

    params: Any
    words: tuple[str, ...]
    length: int
    range: tuple[float, float]

    def pictures(self, images: np.ndarray) -> np.ndarray:
        """Vectors [N, D] of pictures [N, H, W, C] in their own units."""
        scaling = data.Scaling(*self.range, -1.0, 1.0)
        parts = np.array_split(images, -(-len(images) // APPLIED))
        return np.concatenate([_pictures(self.params["pictures"], p, scaling) for p in parts])

    def captions(self, texts: tuple[str, ...]) -> np.ndarray:
        """Vectors [N, D] of captions."""
        tokens = tokens_of(texts, self.words, self.length)
        known = len(self.words) + FIRST
        return np.asarray(_captions(self.params["captions"], tokens, known))


@partial(jax.jit, static_argnums=2)
def _pictures(params: Any, images: jax.Array, scaling: data.Scaling) -> Any:
    return PictureTower().apply({"params": params}, scaling.scale(images))


@partial(jax.jit, static_argnums=2)
def _captions(params: Any, tokens: jax.Array, vocabulary: int) -> Any:
    return CaptionTower(vocabulary).apply({"params": params}, tokens)


def of_run(workdir: epath.Path, of: Captioned, steps: int) -> Judge:
    """The judge in the run's folder, trained and written where there is none of these data."""
    path, mark = workdir / FILE, of.fingerprint(steps)
    stored = _stored(path, mark, of.range)
    if stored is not None:
        return stored
    made = train(of, steps)
    kept = {
        "fingerprint": mark,
        "words": list(made.words),
        "length": made.length,
        "params": jax.tree.map(np.asarray, made.params),
    }
    training.write_whole(path, serialization.msgpack_serialize(kept))
    return made


def _stored(path: epath.Path, mark: str, ends: tuple[float, float]) -> Judge | None:
    """The judge in a file; None, and a line, where it is of other data or damaged."""
    if not path.is_file():
        return None
    try:
        kept: Any = serialization.msgpack_restore(path.read_bytes())
        if kept["fingerprint"] == mark:
            return Judge(kept["params"], tuple(kept["words"]), int(kept["length"]), ends)
        say(f"{path} is of other data (fingerprint {kept['fingerprint']}, not {mark})")
    except Exception as error:  # msgpack raises a dozen types
        say(f"{path} cannot be read ({error})")
    return None


def train(of: Captioned, steps: int, seed: int = 0) -> Judge:
    """The towers after `steps` steps of Adam, with a progress bar."""
    known = vocabulary_of(of.texts, VOCABULARY)
    length = min(LENGTH, max(1, *(len(words(text)) for text in of.texts)))
    tokens = tokens_of(of.texts, known, length)
    key_init, key = jax.random.split(jax.random.key(seed))
    params = _init(key_init, of, tokens, len(known) + FIRST)
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    state, step = optimizer.init(params), _step(optimizer, of, len(known) + FIRST)
    rng, size = np.random.default_rng(seed), min(BATCH, len(of.texts))
    with tqdm(total=steps, desc="training the judge of captions", unit="step") as bar:
        for i in range(steps):
            rows = rng.choice(len(of.texts), size, replace=False)
            batch = {"picture": of.pictures[rows], "tokens": tokens[rows]}
            params, state, loss = step(params, state, jax.random.fold_in(key, i), batch)
            if i % SHOWN == 0:
                bar.set_postfix(loss=f"{float(loss):.3f}")
            bar.update()
    return Judge(jax.tree.map(np.asarray, params), known, length, of.range)


def _init(key: jax.Array, of: Captioned, tokens: np.ndarray, vocabulary: int) -> Any:
    keys = jax.random.split(key)
    picture = jnp.asarray(of.pictures[:1], jnp.float32)
    return {
        "pictures": PictureTower().init(keys[0], picture)["params"],
        "captions": CaptionTower(vocabulary).init(keys[1], tokens[:1])["params"],
        "log_scale": jnp.asarray(LOG_SCALE),
    }


def _step(
    optimizer: optax.GradientTransformation, of: Captioned, vocabulary: int
) -> Callable[..., Any]:
    """step(params, state, key, batch) -> (params, state, loss), jitted.

    It is no loop over steps: inside loops, convolutions on CPUs are many times slower.
    """
    scale = data.Scaling(*of.range, -1.0, 1.0).scale

    def vectors(params: Any, batch: Any) -> tuple[Any, Any, Any]:
        pictures = PictureTower().apply({"params": params["pictures"]}, batch["picture"])
        captions = CaptionTower(vocabulary).apply({"params": params["captions"]}, batch["tokens"])
        return pictures, captions, jnp.exp(params["log_scale"])

    def loss(params: Any, key: jax.Array, batch: Any) -> jax.Array:
        tokens = batch["tokens"]
        same = jnp.all(tokens[:, None] == tokens[None], axis=-1)
        seen = {"picture": changed(key, scale(batch["picture"])), "tokens": tokens}
        return jnp.mean(objectives.contrastive_loss(*vectors(params, seen), same))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, key: jax.Array, batch: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, key, batch)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    return step


def tokens_of(texts: tuple[str, ...], known: tuple[str, ...], length: int) -> np.ndarray:
    """The words of texts as tokens, int32 [N, length]."""
    return np.stack([word_tokens(text, length, known) for text in texts])


def changed(key: jax.Array, x: jax.Array) -> jax.Array:
    """Pictures [B, H, W, C] in [-1, 1] moved by up to SHIFT of their size, with noise.

    What is moved in continues the edge. The noise of each has its own deviation, up to NOISE.
    """
    most = max(1, round(SHIFT * max(x.shape[1:3])))
    key_shift, key_level, key_noise = jax.random.split(key, 3)
    by = jax.random.randint(key_shift, (len(x), 2), 0, 2 * most + 1)
    padded = jnp.pad(x, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    cut = partial(jax.lax.dynamic_slice, slice_sizes=x.shape[1:])
    moved = jax.vmap(lambda picture, at: cut(picture, (at[0], at[1], 0)))(padded, by)
    std = NOISE * jax.random.uniform(key_level, (len(x), 1, 1, 1))
    return moved + std * jax.random.normal(key_noise, x.shape)
