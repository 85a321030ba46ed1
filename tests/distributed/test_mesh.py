"""The mesh is all the devices, and what does not fit it is told in one line."""

import dataclasses

import jax
import pytest

from sde_diffusion.distributed import check_batch_size, make_mesh


@pytest.mark.parametrize(
    ("data", "fsdp", "shape"), [(-1, 1, (8, 1)), (-1, 4, (2, 4)), (2, -1, (2, 4)), (1, 8, (1, 8))]
)
def test_the_axis_of_size_minus_1_takes_the_rest_of_the_devices(data, fsdp, shape):
    mesh = make_mesh(data, fsdp)
    assert mesh.axis_names == ("data", "fsdp")
    assert mesh.devices.shape == shape
    assert set(mesh.devices.flat) == set(jax.devices())


@dataclasses.dataclass(frozen=True)
class Device:
    id: int
    process_index: int


def test_the_devices_of_a_host_are_neighbours_wherever_they_lie_on_the_torus():
    # a 2 x 4 torus of two hosts, its rows listed one after the other
    torus = [Device(i, i % 4 // 2) for i in range(8)]
    hosts = [device.process_index for device in make_mesh(devices=torus).devices.flat]
    assert hosts == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("data", "fsdp", "message"),
    [
        (3, 1, "mesh.data: 3 does not divide the 8 devices"),
        (-1, 5, "mesh.fsdp: 5 does not divide the 8 devices"),
        (2, 2, r"mesh: data 2 x fsdp 2 is 4 devices, but there are 8 \(-1 for the rest\)"),
        (0, 1, r"mesh.data: 0 is neither at least 1 nor -1 \(the rest\)"),
        (1, -2, "mesh.fsdp: -2 is neither"),
        (-1, -1, "mesh.data and mesh.fsdp: only one of them can be -1"),
    ],
)
def test_a_mesh_that_is_not_all_the_devices_is_refused(data, fsdp, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(data, fsdp)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    check_batch_size(make_mesh(), 16)
    with pytest.raises(ValueError, match="batch_size: 12 is not a multiple of the 8 devices"):
        check_batch_size(make_mesh(), 12)
