"""Frozen trees, which an objective uses and a run does not train: their fingerprints.

A checkpoint stores a fingerprint of each frozen tree in place of its arrays, so that a run cannot
resume with another teacher, base or codec than the one it began with.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from sde_diffusion.training.checkpoint import CheckpointMismatch, checksums


def fingerprints(frozen: Mapping[str, Any] | None) -> dict[str, str]:
    """{name: 16 hexadecimal digits} of the leaves' paths, shapes, dtypes and contents.

    They do not depend on how the leaves are sharded.
    """
    return {name: _fingerprint(tree) for name, tree in (frozen or {}).items()}


def check_fingerprints(here: Mapping[str, str], saved: Mapping[str, str]) -> None:
    """Raise CheckpointMismatch that names the first tree that differs from the checkpoint's."""
    for name in sorted({*here, *saved}):
        if here.get(name) != saved.get(name):
            raise CheckpointMismatch(
                f"the frozen tree {name!r} is not the one that the checkpoint was trained with: "
                f"its fingerprint is {here.get(name, 'absent')} here and "
                f"{saved.get(name, 'absent')} in the checkpoint"
            )


def _fingerprint(tree: Any) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = np.asarray(checksums(tree)).tolist() if leaves else []
    described = [
        [jax.tree_util.keystr(path), str(leaf.dtype), list(leaf.shape), checksum]
        for (path, leaf), checksum in zip(leaves, sums, strict=True)
    ]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
