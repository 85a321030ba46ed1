"""Networks of two times: any network of ours is told a second time as a number beside the first.

    network = networks.MLP(numbers=(networks.TOWARDS,))
    model = from_flow_map_network(sde, networks.two_times(network.apply), {"params": params})

A teacher of one time is the same network without `numbers`. Its parameters have the same names, and
the second time enters through layers that are zero at first, so a student that `begin_at` gives the
teacher's parameters begins as the teacher, whatever the second time is.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jax.tree_util import Partial

from sde_diffusion.networks.layers import Array

TOWARDS = "towards"
"""The name of the number that is the second time's label."""


def two_times(apply: Callable[..., Array]) -> Callable[..., Array]:
    """The network's `apply`, called as apply(variables, x, label_t, label_s, cond).

    The network takes the number TOWARDS, which is label_s [B].
    """
    return Partial(_two_times, apply if isinstance(apply, Partial) else Partial(apply))


def _two_times(
    apply: Callable[..., Array], variables: Any, x: Array, t: Array, s: Array, cond: Any = None
) -> Array:
    named = dict(cond) if isinstance(cond, Mapping) else {} if cond is None else {"label": cond}
    return apply(variables, x, t, named | {TOWARDS: s})


def begin_at(params: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a student with those of its teacher in place of the ones of the same name.

    Both are nested dicts. The student's other parameters, such as those of the second time, stay.
    Raises ValueError, which names it, for a parameter of the teacher that the student lacks or has
    in another shape.
    """
    return _begin_at(params, teacher, "")


def _begin_at(params: Any, teacher: Any, path: str) -> Any:
    if not isinstance(teacher, Mapping):
        if isinstance(params, Mapping) or params.shape != teacher.shape:
            shape = "a folder of parameters" if isinstance(params, Mapping) else params.shape
            raise ValueError(
                f"the teacher's parameter {path} has the shape {teacher.shape}, and the student's "
                f"{shape}"
            )
        return teacher
    for name in teacher:
        if not isinstance(params, Mapping) or name not in params:
            raise ValueError(f"the teacher's parameter {path}/{name} is none of the student's")
    return {
        name: _begin_at(value, teacher[name], f"{path}/{name}") if name in teacher else value
        for name, value in params.items()
    }
