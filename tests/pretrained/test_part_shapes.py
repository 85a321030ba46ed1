"""The shapes of parameters, for which equal submodules are run once, against those of `init`."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.pretrained.part import Kind, shapes


class Layer(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features, name="inner")(x)


class Twice(nn.Module):
    def __call__(self, x):
        return 2 * x


class Shared(nn.Module):
    """Applies a module that is given to it, whose parameters stand elsewhere."""

    layer: nn.Module

    @nn.compact
    def __call__(self, x):
        return self.layer(x) + self.param("bias", nn.initializers.ones, x.shape[-1:])


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        for i, features in enumerate((4, 4, 6, 4)):  # the last has other inputs than the first two
            x = Twice()(Layer(features, name=f"layers.{i}")(x))
        tied = Layer(4, name="tied")
        x = Shared(tied, name="a")(x) + Shared(tied, name="b")(x)
        scanned = nn.scan(
            Stacked, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return scanned(name="stacked")(x, None)


class Stacked(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return Layer(4, name="one")(x) + Layer(4, name="two")(x), None


def test_equal_submodules_have_the_shapes_of_init():
    x = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    wanted = jax.eval_shape(Network().init, jax.random.key(0), x)["params"]
    assert shapes(Kind(Network, lambda module: (x,)), Network()) == wanted


def test_equal_submodules_are_run_once():
    runs = []

    class Counted(nn.Module):
        features: int

        @nn.compact
        def __call__(self, x):
            runs.append(self.features)
            return nn.Dense(self.features)(x)

    class Whole(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i, features in enumerate((4, 4, 5, 4, 4)):
                x = Counted(features, name=str(i))(x)
            return x

    x = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    assert set(shapes(Kind(Whole, lambda module: (x,)), Whole())) == set("01234")
    assert runs == [4, 5, 4]
