"""Options of XLA's compiler, with which a step can be tuned to its device."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from sde_diffusion.compilation_cache import without_compilation_cache


def read_compiler_options(text: str) -> dict[str, str]:
    """ "name=value,name=value" -> {name: value}; ValueError for a part of another form."""
    options = {}
    for part in filter(None, text.split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            raise ValueError(f"compiler_options: {part!r} is not name=value (of {text!r})")
        options[name] = value
    return options


def check_compiler_options(options: Mapping[str, str], device: jax.Device) -> None:
    """Raises ValueError with the compiler's message if the device's compiler refuses an option."""
    if not options:
        return
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        with without_compilation_cache():
            jax.jit(jnp.negative, compiler_options=dict(options)).lower(scalar).compile()
    except jax.errors.JaxRuntimeError as error:
        message = str(error).removeprefix("INVALID_ARGUMENT: ")
        raise ValueError(f"compiler_options: {message} ({device.device_kind})") from error
