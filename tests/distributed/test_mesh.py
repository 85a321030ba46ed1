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


@pytest.mark.parametrize(
    ("chips", "slices", "shape"),
    [(1, 1, (1, 1)), (8, 1, (1, 8)), (64, 1, (4, 16)), (24, 3, (3, 8))],
)
def test_a_mesh_that_may_choose_splits_the_state_within_a_slice_and_into_sixteenths_at_most(
    chips, slices, shape
):
    devices = [Device(i, i // 4, slice_index=i * slices // chips) for i in range(chips)]
    assert make_mesh(-1, -1, devices=devices).devices.shape == shape


@dataclasses.dataclass(frozen=True)
class Device:
    id: int
    process_index: int
    slice_index: int = 0
    platform: str = "tpu"


def test_the_devices_of_a_host_are_neighbours_wherever_they_lie_on_the_torus():
    # a 2 x 4 torus of two hosts, its rows listed one after the other
    torus = [Device(i, i % 4 // 2) for i in range(8)]
    hosts = [device.process_index for device in make_mesh(devices=torus).devices.flat]
    assert hosts == [0, 0, 0, 0, 1, 1, 1, 1]


# two slices of two hosts with two chips each, in an order of the torus' own
SLICES = [Device(i, process_index=i // 2, slice_index=i // 4) for i in (5, 0, 7, 2, 4, 1, 6, 3)]


@pytest.mark.parametrize("slices", [-1, 2])
@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_a_copy_of_the_state_never_lies_on_two_slices(fsdp, slices):
    mesh = make_mesh(fsdp=fsdp, slices=slices, devices=SLICES)
    assert mesh.devices.shape == (8 // fsdp, fsdp)
    for copy in mesh.devices:
        assert len({device.slice_index for device in copy}) == 1
    assert [device.id for device in mesh.devices.flat] == list(range(8))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"fsdp": 8}, "mesh.fsdp: 8 does not divide the 4 devices of a slice"),
        ({"fsdp": -1, "data": 1}, "mesh.fsdp: 8 does not divide the 4 devices of a slice"),
        ({"slices": 4}, r"mesh.slices: 4, but the devices form 2 \(-1 accepts any number\)"),
        ({"slices": 1}, "mesh.slices: 1, but the devices form 2"),
    ],
)
def test_a_mesh_that_does_not_fit_the_slices_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(**sizes, devices=SLICES)


def test_devices_other_than_tpus_are_of_one_slice_unless_it_is_asked_for():
    nodes = [dataclasses.replace(device, platform="gpu") for device in SLICES]
    assert make_mesh(fsdp=8, devices=nodes).devices.shape == (1, 8)
    with pytest.raises(ValueError, match="does not divide the 4 devices of a slice"):
        make_mesh(fsdp=8, slices=2, devices=nodes)


@pytest.mark.slow  # loading the compiler
def test_the_slices_are_those_of_the_tpu_compiler(monkeypatch):
    pytest.importorskip("libtpu")
    for variable in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        monkeypatch.setenv(variable, "1")
    from jax.experimental import topologies

    two = topologies.get_topology_desc("v5e:2x2", "tpu", num_slices=2)
    mesh = make_mesh(fsdp=4, slices=2, devices=two.devices)
    assert [[d.slice_index for d in copy] for copy in mesh.devices] == [[0] * 4, [1] * 4]
    with pytest.raises(ValueError, match="fsdp: 8 does not divide the 4 devices of a slice"):
        make_mesh(fsdp=8, devices=two.devices)


@pytest.mark.parametrize(
    ("data", "fsdp", "message"),
    [
        (3, 1, "mesh.data: 3 does not divide the 8 devices"),
        (-1, 5, "mesh.fsdp: 5 does not divide the 8 devices"),
        (2, 2, r"mesh: data 2 x fsdp 2 is 4 devices, but there are 8 \(-1 for the rest\)"),
        (0, 1, r"mesh.data: 0 is neither at least 1 nor -1 \(the rest\)"),
        (1, -2, "mesh.fsdp: -2 is neither"),
    ],
)
def test_a_mesh_that_is_not_all_the_devices_is_refused(data, fsdp, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(data, fsdp)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    check_batch_size(make_mesh(), 16)
    with pytest.raises(ValueError, match="batch_size: 12 is not a multiple of the 8 devices"):
        check_batch_size(make_mesh(), 12)
