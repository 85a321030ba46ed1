"""Files of safetensors, written here byte by byte as the format says."""

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.pretrained import safetensors


def write(path, header, body=b""):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def entry(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_arrays_are_those_of_the_bytes(tmp_path):
    body = struct.pack("<6f", *range(6)) + bytes([0x80, 0x3F, 0x00, 0xC0]) + struct.pack("<q", -5)
    header = {
        "__metadata__": {"format": "pt"},
        "a.weight": entry("F32", [2, 3], 0, 24),
        "b": entry("BF16", [2], 24, 28),
        "c": entry("I64", [], 28, 36),
    }
    made = safetensors.read(write(tmp_path / "x.safetensors", header, body))
    assert set(made) == {"a.weight", "b", "c"}
    np.testing.assert_array_equal(made["a.weight"], np.arange(6, dtype=np.float32).reshape(2, 3))
    # 0x3F80 and 0xC000 are the upper halves of the float32 numbers 1 and -2.
    assert made["b"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(made["b"].astype(np.float32), [1.0, -2.0])
    assert made["c"] == -5


def test_a_file_without_arrays(tmp_path):
    assert safetensors.read(write(tmp_path / "x", {"__metadata__": {}})) == {}


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        ({"a": entry("F32", [2], 0, 8)}, b"1234", "a of shape .* lies in bytes 0 to 8"),
        ({"a": entry("F32", [3], 0, 8)}, b"12345678", "lies in bytes"),
        ({"a": entry("F8_E4M3", [1], 0, 1)}, b"1", "a has the dtype F8_E4M3"),
        ({"a": {"dtype": "F32"}}, b"1234", "not a whole"),
        ([], b"", "not a safetensors file"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, header, body, message):
    path = write(tmp_path / "x.safetensors", header, body)
    with pytest.raises(ValueError, match=message):
        safetensors.read(path)


CUT_SHORT, NO_JSON = struct.pack("<Q", 99) + b"{}", struct.pack("<Q", 2) + b"{["


@pytest.mark.parametrize("content", [b"", b"1234", CUT_SHORT, NO_JSON])
def test_another_kind_of_file_is_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.safetensors: not a "):
        safetensors.read(tmp_path / "x.safetensors")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        safetensors.read(tmp_path / "none.safetensors")
