"""A judge of pictures and captions: two towers, trained on real drawings alone.

    score(picture, caption) = f(picture) . g(caption),   both of length 1

f is a small convolutional network, g a perceptron on the caption's words and their places. They are
trained to find the caption of a picture in a batch, and the picture of a caption (Radford et al.
2021, "Learning transferable visual models from natural language supervision"). The pictures are
moved and noisy in training, so that the judge does not depend on pixels.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import serialization

from sde_diffusion.data.vocabulary import vocabulary_of, word_tokens

WIDTH, WORDS, MOST_SHIFT, MOST_NOISE = 128, 14, 3, 0.3


class Pictures(nn.Module):
    """Pictures [B, 64, 64, 3] in [-1, 1] -> vectors of length 1, [B, WIDTH]."""

    @nn.compact
    def __call__(self, x):
        for features in (24, 48, 96):
            x = nn.relu(nn.Conv(features, (3, 3), strides=2)(x))
            x = nn.GroupNorm(8)(x)
        x = nn.relu(nn.Dense(256)(x.reshape(len(x), -1)))
        return unit(nn.Dense(WIDTH)(x))


class Captions(nn.Module):
    """Tokens of words [B, WORDS] -> vectors of length 1, [B, WIDTH]."""

    vocabulary: int

    @nn.compact
    def __call__(self, tokens):
        there = (tokens > 0)[..., None]
        placed = nn.Embed(self.vocabulary, 256)(tokens)
        places = self.param("places", nn.initializers.normal(0.5), (WORDS, 256))
        mean = jnp.sum(there * nn.relu(nn.Dense(256)(placed) + places), axis=1)
        return unit(nn.Dense(WIDTH)(nn.relu(nn.Dense(256)(mean))))


class Judge(NamedTuple):
    """The trained towers, and the words that they know."""

    params: Any
    words: tuple[str, ...]

    def pictures(self, images: np.ndarray) -> np.ndarray:
        """Vectors [N, WIDTH] of uint8 pictures [N, 64, 64, 3]."""
        apply = jax.jit(Pictures().apply)
        parts = np.array_split(images, max(1, len(images) // 250))
        return np.concatenate([apply({"params": self.params["pictures"]}, scale(p)) for p in parts])

    def captions(self, texts) -> np.ndarray:
        """Vectors [N, WIDTH] of captions."""
        return np.asarray(
            jax.jit(Captions(len(self.words) + 2).apply)(
                {"params": self.params["captions"]}, tokens_of(texts, self.words)
            )
        )


def stored_judge(path, images: np.ndarray, texts, *, steps: int) -> Judge:
    """The judge of the file `path`, which is trained and written where there is none."""
    words = vocabulary_of(texts, 4000)
    if path.is_file():
        return Judge(serialization.msgpack_restore(path.read_bytes()), words)
    judge = train_judge(images, texts, steps=steps)
    path.write_bytes(serialization.msgpack_serialize(jax.tree.map(np.asarray, judge.params)))
    return judge


def unit(x):
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-6)


def scale(images):
    return jnp.asarray(images, jnp.float32) / 127.5 - 1


def tokens_of(texts, words) -> np.ndarray:
    return np.stack([word_tokens(str(text), WORDS, words) for text in texts])


def train_judge(images: np.ndarray, texts, *, steps: int, batch: int = 128, seed: int = 0) -> Judge:
    """The towers after `steps` of Adam on real pictures [N, 64, 64, 3] and their captions."""
    words = vocabulary_of(texts, 4000)
    tokens, rng = tokens_of(texts, words), np.random.default_rng(seed)
    nets = {"pictures": Pictures(), "captions": Captions(len(words) + 2)}
    keys = jax.random.split(jax.random.key(seed))
    params = {
        "pictures": nets["pictures"].init(keys[0], scale(images[:1]))["params"],
        "captions": nets["captions"].init(keys[1], tokens[:1])["params"],
        "log_scale": jnp.asarray(2.5),
    }
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
    state = optimizer.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, key, x, tokens):
        def loss(params):
            f = nets["pictures"].apply({"params": params["pictures"]}, changed(key, scale(x)))
            g = nets["captions"].apply({"params": params["captions"]}, tokens)
            logits = jnp.exp(params["log_scale"]) * f @ g.T
            own = jnp.diag(logits)
            other = jax.nn.logsumexp(logits, axis=0) + jax.nn.logsumexp(logits, axis=1)
            return jnp.mean(other / 2 - own)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    for i in range(steps):
        rows = rng.choice(len(images), batch, replace=False)
        key = jax.random.fold_in(keys[0], i)
        params, state, value = step(params, state, key, images[rows], tokens[rows])
        if i % 50 == 0:
            print(f"judge: step {i} of {steps}, loss {float(value):.3f}", flush=True)
    return Judge(params, words)


def changed(key, x):
    """Pictures moved by up to MOST_SHIFT pixels on their white ground, with noise."""
    shift, level, noise = jax.random.split(key, 3)
    by = jax.random.randint(shift, (len(x), 2), 0, 2 * MOST_SHIFT + 1)
    edge = ((MOST_SHIFT, MOST_SHIFT),) * 2
    padded = jnp.pad(x, ((0, 0), *edge, (0, 0)), constant_values=1.0)
    moved = jax.vmap(lambda p, b: jax.lax.dynamic_slice(p, (b[0], b[1], 0), x.shape[1:]))(
        padded, by
    )
    std = MOST_NOISE * jax.random.uniform(level, (len(x), 1, 1, 1))
    return moved + std * jax.random.normal(noise, x.shape)


def is_found(pictures: np.ndarray, captions: np.ndarray, among: int, seed: int) -> np.ndarray:
    """bool [N]: whether picture i scores its caption i highest among `among` captions.

    The others are drawn at random from the rest of `captions`.
    """
    rng, found = np.random.default_rng(seed), np.empty(len(pictures), bool)
    for i, vector in enumerate(pictures):
        others = rng.permutation(np.delete(np.arange(len(captions)), i))[: among - 1]
        found[i] = vector @ captions[i] > (captions[others] @ vector).max()
    return found
