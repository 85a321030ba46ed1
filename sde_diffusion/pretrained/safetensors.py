"""Files of named arrays: safetensors, read as data.

A file is the length N of its header (a little-endian 64-bit integer), the header (N bytes of JSON),
and the arrays' bytes, row-major and little-endian. The header gives each array's name, dtype, shape
and its first and last byte, counted from the end of the header.
Format: https://github.com/huggingface/safetensors#format
"""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
}


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a file by name, mapped: their bytes are read where they are used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a whole file of this format, or an array has an unknown dtype.
    """
    entries, length = _header(path)
    entries.pop("__metadata__", None)
    # An empty file cannot be mapped.
    empty = os.path.getsize(path) == 8 + length
    whole = np.empty(0, np.uint8) if empty else np.memmap(path, np.uint8, "r", offset=8 + length)
    try:
        return {name: _array(whole, name, entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from error


def metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts by name in the header of a file; raises what `read` raises."""
    return dict(_header(path)[0].get("__metadata__") or {})


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    *,
    dtype: Any = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write the arrays under their names; one at a time is cast and made contiguous.

    dtype: of the arrays in the file; by default each keeps its own.
    notes: texts by name for the header, which `metadata` reads.

    Raises ValueError for an array of a dtype that the format does not have.
    """
    dtypes = {name: jnp.dtype(dtype or array.dtype) for name, array in arrays.items()}
    named = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(notes or {})}}
    end = 0
    for name, array in arrays.items():
        if dtypes[name] not in named:
            raise ValueError(f"{name} has the dtype {dtypes[name]}, not {', '.join(DTYPES)}")
        start, end = end, end + array.size * dtypes[name].itemsize
        entry = {"dtype": named[dtypes[name]], "shape": list(array.shape)}
        header[name] = entry | {"data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, array in arrays.items():
            file.write(np.ascontiguousarray(array, dtypes[name]).reshape(-1).view(np.uint8).data)


def _header(path: str | os.PathLike[str]) -> tuple[dict[str, Any], int]:
    """The entries of the header, and how many bytes it has."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file")
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{path}: not a whole safetensors file: its header is cut short")
        try:
            return dict(json.loads(file.read(length)).items()), length
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}: not a safetensors file ({error})") from error


def _array(whole: np.ndarray, name: str, entry: dict[str, Any]) -> np.ndarray:
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{name} has the dtype {entry['dtype']}, not {', '.join(DTYPES)}")
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
    start, end = entry["data_offsets"]
    if not 0 <= start <= end <= len(whole) or end - start != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{name} of shape {shape} lies in bytes {start} to {end}")
    return whole[start:end].view(dtype).reshape(shape)
