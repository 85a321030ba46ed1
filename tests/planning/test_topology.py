"""Topologies by name."""

import importlib.util

import jax
import pytest

from sde_diffusion.planning import DoesNotFit, compile_program, named


@pytest.fixture(autouse=True)
def _platforms_as_they_were():
    before = jax.config.values["jax_platforms"]
    yield
    jax.config.update("jax_platforms", before)


def test_a_cpu_has_as_many_devices_as_asked_for():
    assert len(named("cpu:4").devices) == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5:2x2", ("unknown topology", "v5e", "v5p", "cpu", "gpu")),
        ("v5e", ("v5e:2x2", "v5e:16x16")),
        ("v5e:3x5", ("'v5e:3x5'", "v5e:4x4")),
        ("v5e:0x2", ("'v5e:0x2'", "v5e:4x4")),
        ("v5e:4x4x4", ("'v5e:4x4x4'", "v5e:4x4")),
        ("v5p:4x4", ("'v5p:4x4'", "v5p:2x2x1", "4x4x4")),
        ("v5p:4x4x6", ("'v5p:4x4x6'", "multiples of four")),
        ("2xv5e:3x5", ("'2xv5e:3x5'", "v5e:4x4")),
        ("0xv5e:4x4", ("unknown topology", "v5e")),
        ("2xcpu:8", ("'2xcpu:8'", "only TPUs have slices", "2xv5e:4x4")),
        ("cpu", ("number of devices", "cpu:8")),
        ("cpu:0", ("number of devices", "cpu:8")),
        ("cpu:many", ("number of devices", "cpu:8")),
        ("cpu:4096", ("8 CPU devices already",)),
        ("gpu", ("no GPU",)),
        ("gpu:x", ("number of devices",)),
    ],
)
def test_an_unknown_topology_is_refused_in_one_line(name, words):
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as error:
        named(name)
    assert all(word in str(error.value) for word in words), error.value


def test_a_missing_compiler_is_named_with_the_extra_that_has_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'sde-diffusion\[tpu\]'"):
        named("v5e:2x2")


@pytest.mark.parametrize(
    ("name", "chips", "hosts"),
    [
        ("v4:2x2x1", 4, 1),
        ("v5e:1x1", 1, 1),
        ("v5e:4x4", 16, 4),
        ("v5p:4x4x4", 64, 16),
        ("v6e:1x1", 1, 1),
    ],
)
def test_the_devices_of_a_slice_are_its_chips(name, chips, hosts):
    pytest.importorskip("libtpu", reason="a TPU's compiler is in the extra `tpu`")
    devices = named(name).devices
    assert len(devices) == chips
    assert len({device.process_index for device in devices}) == hosts


def test_every_slice_has_hosts_of_its_own():
    pytest.importorskip("libtpu", reason="a TPU's compiler is in the extra `tpu`")
    topology = named("2xv5e:4x4")
    devices = topology.devices
    assert topology.slices == 2
    hosts = {(device.slice_index, device.process_index) for device in devices}
    assert len(devices) == 32
    assert sorted(slice_ for slice_, _ in hosts) == [0] * 4 + [1] * 4


def test_a_program_that_a_chip_cannot_hold_does_not_fit():
    pytest.importorskip("libtpu", reason="a TPU's compiler is in the extra `tpu`")
    device = named("v5e:1x1").devices[0]
    placed = jax.sharding.SingleDeviceSharding(device)
    x = jax.ShapeDtypeStruct((2**33,), "float32", sharding=placed)  # 32 GiB
    with pytest.raises(DoesNotFit, match=r"\A[^\n]*G[^\n]*15\.75G[^\n]*\Z"):
        compile_program(jax.jit(lambda x: x + 1).lower(x), 1)
