"""Batches: every row once an epoch, the same order for the same seed, on any number of hosts."""

import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sde_diffusion.data import batches, from_arrays, one_pass


def numbered(num):
    """A source whose record i is the point [i, -i] with label i."""
    x = np.arange(num, dtype=np.float32)[:, None] * [1.0, -1.0]
    return from_arrays("numbered", {"x": x, "label": np.arange(num)}, low=0, high=1)


def rows(iterator, steps):
    return [batch["label"].tolist() for batch in islice(iterator, steps)]


def flat(lists):
    return [row for part in lists for row in part]


@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 30), batch=st.integers(1, 30), seed=st.integers(0, 2**40))
def test_every_epoch_holds_every_row_once(num, batch, seed):
    batch = min(batch, num)
    epochs = 3
    seen = flat(rows(batches(numbered(num), batch, seed), -(-epochs * num // batch)))
    for e in range(epochs):
        assert sorted(seen[e * num : (e + 1) * num]) == list(range(num))


def test_every_epoch_has_its_own_order():
    seen = flat(rows(batches(numbered(100), 10, 0), 20))
    assert seen[:100] != list(range(100))
    assert seen[:100] != seen[100:]


def test_neighbouring_seeds_share_no_epoch():
    first, second = (np.reshape(rows(batches(numbered(50), 50, s), 5), (5, 50)) for s in (0, 1))
    assert not any((a == b).all() for a in first for b in second)


def test_the_same_seed_gives_the_same_batches():
    first, again = (rows(batches(numbered(20), 6, 7), 10) for _ in range(2))
    assert first == again


def test_a_row_keeps_its_label():
    batch = next(batches(numbered(20), 6, 0))
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["x"], batch["label"][:, None] * [1.0, -1.0])


@settings(max_examples=10, deadline=None)
@given(hosts=st.sampled_from([1, 2, 3, 4, 6, 12]), seed=st.integers(0, 100))
def test_the_hosts_parts_side_by_side_are_the_global_batch(hosts, seed):
    source = numbered(31)
    whole = rows(batches(source, 12, seed), 6)
    parts = [rows(batches(source, 12, seed, host=h, hosts=hosts), 6) for h in range(hosts)]
    assert [flat(step) for step in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("taken", [0, 1, 5, 13])
def test_the_state_goes_on_with_the_next_batch_and_survives_json(taken):
    source = numbered(20)
    first = batches(source, 6, 0)
    rows(first, taken)
    state = json.loads(json.dumps(first.get_state()))
    again = batches(source, 6, 0)
    again.set_state(state)
    assert rows(again, 8) == rows(first, 8)


def test_the_state_of_one_host_goes_on_with_another_number_of_hosts():
    source = numbered(20)
    alone = batches(source, 6, 0)
    rows(alone, 4)
    pair = [batches(source, 6, 0, host=h, hosts=2) for h in range(2)]
    for iterator in pair:
        iterator.set_state(alone.get_state())
    assert flat(rows(iterator, 1)[0] for iterator in pair) == rows(alone, 1)[0]


def test_images_keep_their_bytes_and_need_no_labels():
    x = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    batch = next(batches(from_arrays("images", {"image": x}), 5, 0))
    assert batch.keys() == {"image", "index"}
    np.testing.assert_array_equal(batch["image"], x[batch["index"]])
    assert batch["image"].dtype == np.uint8
    assert sorted(image.tobytes() for image in batch["image"]) == sorted(i.tobytes() for i in x)


def test_batches_of_a_mapped_file_are_plain_arrays(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    source = from_arrays("mapped", {"x": x}, low=0, high=1)
    assert type(next(batches(source, 2, 0))["x"]) is np.ndarray


@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 30), batch=st.integers(1, 30), hosts=st.integers(1, 4))
def test_one_pass_gives_every_row_once_in_order_the_last_batch_included(num, batch, hosts):
    parts = [
        flat(rows(one_pass(numbered(num), batch, host=h, hosts=hosts), None)) for h in range(hosts)
    ]
    assert parts == [list(range(h, num, hosts)) for h in range(hosts)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 21}, "numbered: 20 samples, fewer than a batch of 21"),
        ({"batch_size": 6, "hosts": 4}, "batch_size 6 is not a multiple of the 4 hosts"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 6, "seed": -1}, "seed must be at least 0, got -1"),
        ({"batch_size": 6, "host": 2, "hosts": 2}, r"host must be in \[0, hosts\)"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        batches(numbered(20), **({"seed": 0} | arguments))
