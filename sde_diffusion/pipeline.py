"""Pipeline: text encoders, a model of latents and a codec, with the defaults they are used with.

A pipeline may have no text encoders, and pixels in the place of latents.

    picture = decode(sample of the model under (text, negative text), guided by
              negative + w (positive - negative))

Every part is usable alone: `pipe.model` is a Model like any other, of latents, whose cond is what
`pipe.text` makes.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.guidance import Rule, away_from, static_threshold
from sde_diffusion.guidance.classifier_free import LINEAR
from sde_diffusion.model import Model
from sde_diffusion.samplers import Samples, Solver, sample
from sde_diffusion.sdes import Array

Size = tuple[int, int]


class Codec(Protocol):
    """Images to latents and back; `factor` pixels along an axis are one latent."""

    @property
    def factor(self) -> int: ...

    def encode(self, params: Any, key: Array | None, x: Array) -> Array: ...

    def decode(self, params: Any, z: Array) -> Array: ...


class Text(Protocol):
    """Texts to conditions of the model, for pictures of a size in pixels, height and width.

    None stands for no text, of which there are `num`. The arrays are [num, ...].
    """

    def __call__(self, texts: Sequence[str] | None, num: int, size: Size) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A pretrained model of images, as `pretrained.load` makes it.

    model: of latents [B, h, w, channels]; it is called with cond as `text` makes it.
    codec, codec_params: between images [B, H, W, C] in [-1, 1] and latents.
    text: texts to conditions; None for a model without texts, whose cond is None.
    grid: a number of steps, and a size -> times, and whether an evaluation denoises after them.
    solver: the solver that the folder says.
    size: height and width in pixels of the pictures that the model was trained on.
    channels: of the latents.
    guidance: the weight by default.
    told: whether the network is told the weight, as cond["guidance"], in place of a second branch:
        it was distilled from guided sampling.
    clip: bound of |x0| in samples; None for no bound.
    steps: of a sample by default.
    fills_in: whether the network was trained to fill in a part of a picture, which it is told as
        cond["image"].
    """

    model: Model
    codec: Codec
    codec_params: Any
    text: Text | None
    grid: Callable[..., tuple[Array, bool]]
    solver: Solver
    size: Size
    channels: int
    guidance: float = 7.5
    told: bool = False
    clip: float | None = None
    steps: int = 50
    fills_in: bool = False

    def sample(self, key: Array, prompts: Sequence[str] | int, **options: Any) -> np.ndarray:
        """Pictures [B, H, W, C] of the prompts, or so many of a model without texts.

        They are float32 in [0, 1].

        The options and errors are those of `latents`. Pictures are decoded one by one.

            pipe.sample(jax.random.key(0), ["a red fox"], negative="blurry", steps=25)
        """
        return self.decode(self.latents(key, prompts, **options).x)

    def latents(
        self,
        key: Array,
        prompts: Sequence[str] | int,
        *,
        negative: str | Sequence[str] | None = None,
        guidance: float | None = None,
        rule: Rule = LINEAR,
        steps: int | None = None,
        solver: Solver | None = None,
        grid: Array | None = None,
        denoise_last: bool | None = None,
        size: Size | None = None,
        picture: Any = None,
        mask: Any = None,
        x_init: Array | None = None,
        first: int = 0,
    ) -> Samples:
        """Samples of latents [B, h, w, channels] under the prompts; nfe counts both branches.

        Args:
            key: of the noise; sample i depends on (key, first + i) and its texts only.
            prompts: one for each sample; their number for a model without texts.
            negative: what the samples are guided away from, one text for all or one for each; by
                default no text.
            guidance: the weight w; 1 takes one evaluation in place of two. By default the
                pipeline's.
            rule: how the two branches are combined, see `sde_diffusion.guidance`; `Rescaled()` for
                networks with zero terminal SNR.
            steps: evaluations of the solver along the pipeline's own grid; by default the
                pipeline's.
            solver: by default the pipeline's.
            grid: times of `pipe.model.sde`, in place of `steps`.
            denoise_last: whether an evaluation denoises after the grid; by default as the pipeline
                does, and with a `grid` it does.
            size: height and width of the pictures in pixels; by default those of `picture`, or the
                pipeline's.
            picture: for a pipeline that fills in, pictures [H, W, C] or [B, H, W, C] in [0, 1].
            mask: [H, W] or [B, H, W], at least 1/2 where the picture is to be filled in.
            x_init: the noise to start with, [B, h, w, channels].
            first: the number of the first sample.

        Raises ValueError for prompts that are one string, negative texts of another number, texts
        where the model has none, a size that is no multiple of `codec.factor`, and a picture and a
        mask that are missing, are of another size, or are not asked for.
        """
        if size is None:
            size = self.size if picture is None else tuple(np.shape(picture)[-3:-1])
        model, cond = self.guided(
            prompts,
            negative=negative,
            guidance=guidance,
            rule=rule,
            size=size,
            picture=picture,
            mask=mask,
        )
        denoises = True
        if grid is None:
            grid, denoises = self.grid(self.steps if steps is None else steps, size)
        return sample(
            key,
            model,
            self.latent_shape(prompts if isinstance(prompts, int) else len(prompts), size),
            solver=self.solver if solver is None else solver,
            grid=grid,
            cond=cond,
            x_init=x_init,
            first=first,
            denoise_last=denoises if denoise_last is None else denoise_last,
        )

    def guided(
        self,
        prompts: Sequence[str] | int,
        *,
        negative: str | Sequence[str] | None = None,
        guidance: float | None = None,
        rule: Rule = LINEAR,
        size: Size | None = None,
        picture: Any = None,
        mask: Any = None,
    ) -> tuple[Model, Any]:
        """The model that `latents` samples from, and its condition for these prompts.

        The arguments and errors are those of `latents`.
        """
        if self.fills_in and (picture is None or mask is None):
            raise ValueError("this model fills in a part of a picture: give a picture and a mask")
        if not self.fills_in and (picture is not None or mask is not None):
            raise ValueError("this model fills in no picture: leave out picture and mask")
        if self.text is None:
            if not isinstance(prompts, int) or negative is not None or guidance not in (None, 1.0):
                raise ValueError(
                    "this model has no texts: give the number of samples in place of prompts, "
                    "without negative texts and guidance"
                )
            return self._clipped(self.model), None
        if isinstance(prompts, str | int):
            raise ValueError(f"prompts must be a list of texts, got {prompts!r}")
        size = self.size if size is None else size
        weight = self.guidance if guidance is None else guidance
        num, model = len(prompts), self.model
        if negative is not None and (self.told or weight == 1.0):
            why = "as the network is told the weight" if self.told else "with guidance = 1"
            raise ValueError(f"negative texts have no effect {why}")
        cond = self.text(prompts, num, size)
        if self.told:
            cond = cond | {"guidance": jnp.full(num, weight, jnp.float32)}
        elif weight != 1.0:
            texts = [negative] * num if isinstance(negative, str) else negative
            if texts is not None and len(texts) != num:
                raise ValueError(f"{num} prompts have {len(texts)} negative texts")
            cond = {"negative": self.text(texts, num, size), "positive": cond}
            model = away_from(model, weight, rule=rule)
        if self.fills_in:
            told = {"image": self._hidden(num, size, picture, mask)}
            guided = model is not self.model
            cond = {name: each | told for name, each in cond.items()} if guided else cond | told
        return self._clipped(model), cond

    def _hidden(self, num: int, size: Size, picture: Any, mask: Any) -> Array:
        """The mask and the latents of the picture without what is hidden, [num, h, w, 1 + C]."""
        pictures = jnp.asarray(picture, jnp.float32)
        hidden = jnp.asarray(mask)[..., None] >= 0.5
        if pictures.shape[-3:-1] != size or hidden.shape[-3:-1] != size:
            raise ValueError(
                f"a picture of {pictures.shape[-3:-1]} and a mask of {hidden.shape[-3:-1]} for "
                f"samples of {size}"
            )
        pictures = jnp.broadcast_to(pictures, (num, *pictures.shape[-3:]))
        hidden = jnp.broadcast_to(hidden, (num, *hidden.shape[-3:]))
        # What is hidden is grey, the middle of [-1, 1].
        latents = self.encode(None, jnp.where(hidden, 0.5, pictures))
        factor = self.codec.factor
        small = hidden[:, ::factor, ::factor].astype(latents.dtype)
        return jnp.concatenate([small, latents], axis=-1)

    def _clipped(self, model: Model) -> Model:
        return model if self.clip is None else static_threshold(model, -self.clip, self.clip)

    def latent_shape(self, num: int, size: Size | None = None) -> tuple[int, ...]:
        """The shape [num, h, w, channels] of latents of pictures of this size in pixels."""
        height, width = self.size if size is None else size
        factor = self.codec.factor
        if height % factor or width % factor:
            raise ValueError(f"size must be a multiple of {factor}, got {height}x{width}")
        return (num, height // factor, width // factor, self.channels)

    def decode(self, latents: Array) -> np.ndarray:
        """Pictures [B, H, W, C] in [0, 1] of latents, one by one: the decoder takes most memory."""
        pictures = [
            np.asarray(_decode(self.codec, self.codec_params, latents[i : i + 1]))
            for i in range(len(latents))
        ]
        return np.concatenate(pictures)

    def encode(self, key: Array | None, pictures: Any) -> Array:
        """Latents of pictures [B, H, W, C] in [0, 1]: a sample, or the mean where key is None."""
        return _encode(self.codec, self.codec_params, key, 2.0 * jnp.asarray(pictures) - 1.0)


@partial(jax.jit, static_argnames="codec")
def _decode(codec: Codec, params: Any, latents: Array) -> Array:
    return jnp.clip(0.5 * codec.decode(params, latents) + 0.5, 0.0, 1.0)


@partial(jax.jit, static_argnames="codec")
def _encode(codec: Codec, params: Any, key: Array | None, x: Array) -> Array:
    return codec.encode(params, key, x)
