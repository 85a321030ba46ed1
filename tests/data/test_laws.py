"""One table of sources through the same laws: random access, batches, resuming, hosts."""

import itertools
import json

import numpy as np
import pytest
from files import encoded, pixels, write_files, write_tar

from sde_diffusion.data import (
    Features,
    Mapped,
    batches,
    from_arrays,
    load,
    one_pass,
    select,
    take,
    tokenized,
    write_array_record,
)
from sde_diffusion.data.formats import example

NUM, BATCH = 13, 4
IMAGES = pixels(NUM)
LABELS = np.arange(NUM) % 3
TEXTS = [f"Bild {i}: é" for i in range(NUM)]


def in_arrays(root):
    return from_arrays("a", {"image": IMAGES, "label": LABELS, "text": np.array(TEXTS)})


def npz(root):
    np.savez(root / "a.npz", image=IMAGES, label=LABELS, text=np.array(TEXTS))
    return load("npz", path=str(root / "a.npz"))


def npy(root):
    np.save(root / "x.npy", IMAGES)
    np.save(root / "y.npy", LABELS)
    return load("npy", path=str(root / "x.npy"), labels=str(root / "y.npy"))


def folder(root, memory=0.0):
    for i in range(NUM):
        write_files(
            root, {f"{LABELS[i]}/{i:02}.png": IMAGES[i], f"{LABELS[i]}/{i:02}.txt": TEXTS[i]}
        )
    return load("folder", path=str(root), captions="txt", memory=memory)


def folder_in_memory(root):
    return folder(root, memory=1.0)


def table_of_captions(root):
    lines = [json.dumps({"file_name": f"{i}.png", "text": TEXTS[i]}) for i in range(NUM)]
    write_files(root, {f"{i}.png": IMAGES[i] for i in range(NUM)})
    write_files(root, {"metadata.jsonl": "\n".join(lines)})
    return load("folder", path=str(root), captions="metadata.jsonl", memory=0.0)


def webdataset(root, memory=0.0):
    for k, part in enumerate(np.array_split(np.arange(NUM), 3)):
        members = {}
        for i in part:
            members |= {f"x/{i:03}.png": IMAGES[i], f"x/{i:03}.cls": str(LABELS[i])}
            members |= {f"x/{i:03}.txt": TEXTS[i]}
        write_tar(root / f"part-{k:02}.tar", members)
    return load("webdataset", path=str(root / "part-{00..02}.tar"), memory=memory)


def webdataset_in_memory(root):
    return webdataset(root, memory=1.0)


def array_record(root):
    write_array_record(in_arrays(root), str(root / "records"), shard_size=5)
    return load("array_record", path=str(root / "records"), memory=0.0)


def array_record_of_points(root):
    x = np.arange(2 * NUM, dtype=np.float32).reshape(NUM, 2)
    points = from_arrays("points", {"x": x, "label": LABELS}, low=0, high=1)
    write_array_record(points, str(root / "records"))
    return load("array_record", path=str(root / "records"), memory=0.0)


def with_tokens(root):
    return tokenized(in_arrays(root), 8)


def with_tokens_of_a_folder(root):
    return tokenized(folder_in_memory(root), 8)


def without_text(root):
    return select(folder(root), ["image", "label"])


def with_depth(root):
    source = in_arrays(root)
    depth = from_arrays("d", {"image": IMAGES[..., :1]}).features["image"]
    features = Features({**source.features, "depth": depth})
    return Mapped(source, features, lambda record: record | {"depth": record["image"][..., :1]})


ALL = {
    make.__name__: make
    for make in (
        *(in_arrays, npz, npy, folder, folder_in_memory, table_of_captions, webdataset),
        *(webdataset_in_memory, array_record, array_record_of_points, with_tokens),
        *(with_tokens_of_a_folder, without_text, with_depth),
    )
}


@pytest.fixture(scope="module", params=ALL)
def source(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield ALL[request.param](tmp_path_factory.mktemp(request.param))


def keys(iterator, steps=None):
    """Each batch as a list of what identifies its records: the bytes of the event and the text."""
    return [
        [
            (event.tobytes(), str(text))
            for event, text in zip(
                batch.get("image", batch.get("x")),
                batch.get("text", itertools.repeat("")),
                strict="text" in batch,
            )
        ]
        for batch in itertools.islice(iterator, steps)
    ]


def flat(lists):
    return [key for part in lists for key in part]


def test_records_are_what_the_features_say(source):
    assert len(source) == NUM
    for i in (0, NUM - 1):
        record = source[i]
        assert record.keys() == source.features.keys()
        for name, feature in source.features.items():
            value = np.asarray(record[name])
            kind = "str" if value.dtype.kind == "U" else value.dtype.name
            assert (value.shape, kind) == (feature.shape, feature.dtype)
            if feature.low is not None and name != "x":
                assert feature.low <= value.min() <= value.max() <= feature.high
    assert Features.from_json(source.features.to_json()) == source.features


def test_the_records_are_those_that_were_written(source):
    if "image" not in source.features:
        return
    place = {image.tobytes(): i for i, image in enumerate(IMAGES)}
    found = [place[source[i]["image"].tobytes()] for i in range(NUM)]
    assert sorted(found) == list(range(NUM))
    for i, j in enumerate(found):
        record = source[i]
        assert record.get("label", LABELS[j]) == LABELS[j]
        assert record.get("text", TEXTS[j]) == TEXTS[j]
        if "tokens" in record:
            tokens = record["tokens"]
            assert bytes((tokens[tokens > 0] - 1).tolist()) == TEXTS[j].encode()[:8]


def test_a_batch_is_its_records_stacked(source):
    rows = np.array([5, 0, 12, 5])
    batch = take(source, rows)
    for name in source.features:
        np.testing.assert_array_equal(batch[name], [source[int(row)][name] for row in rows])
        assert type(batch[name]) is np.ndarray


def test_an_epoch_holds_every_record_once_and_one_pass_keeps_the_order(source):
    (every,) = keys([take(source, np.arange(NUM))])
    drawn = flat(keys(batches(source, BATCH, 3), 7))  # 28 records: two epochs
    assert sorted(drawn[:NUM]) == sorted(drawn[NUM : 2 * NUM]) == sorted(every)
    assert drawn[:NUM] != drawn[NUM : 2 * NUM]
    assert flat(keys(one_pass(source, BATCH))) == every


def test_a_resumed_iterator_goes_on_with_the_next_batch(source):
    first = batches(source, BATCH, 1)
    keys(first, 5)
    state = json.loads(json.dumps(first.get_state()))
    again = batches(source, BATCH, 1)
    again.set_state(state)
    assert keys(again, 4) == keys(first, 4)


def test_the_hosts_parts_side_by_side_are_the_global_batch(source):
    whole = keys(batches(source, BATCH, 2), 5)
    parts = [keys(batches(source, BATCH, 2, host=h, hosts=2), 5) for h in range(2)]
    assert [flat(step) for step in zip(*parts, strict=True)] == whole


def test_a_damaged_record_stops_the_batches_with_its_name(tmp_path):
    source = folder(tmp_path)
    (tmp_path / "0" / "03.png").write_bytes(encoded(IMAGES[3])[:60])
    with pytest.raises(ValueError, match=r"0/03\.png: cannot read this image"):
        keys(batches(source, BATCH, 0), 4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_names_its_record(value):
    x = np.zeros((9, 2), np.float32)
    x[7, 1] = value
    with pytest.raises(ValueError, match=f"points: record 7 has a {value} in x"):
        keys(batches(from_arrays("points", {"x": x}, low=0, high=1), 3, 0), 3)


def test_a_record_that_is_not_what_the_features_say_is_named():
    source = from_arrays("a", {"image": IMAGES})
    for function, message in (
        (lambda record: {}, "a: record 2 has no image"),
        (lambda record: {"image": record["image"][1:]}, "image of record 2 has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            take(Mapped(source, source.features, function), np.array([2]))


def test_an_example_is_the_protocol_buffer_of_that_name():
    # Written by hand after the encoding of protocol buffers: a field is its number and wire type
    # (2: so many bytes follow) in one byte, and a packed list of int64 holds varints.
    label = b"\x0a\x05label" + b"\x12\x06\x1a\x04\x0a\x02\xac\x02"  # int64_list {300}
    text = b"\x0a\x04text" + b"\x12\x06\x0a\x04\x0a\x02ab"  # bytes_list {"ab"}
    depth = b"\x0a\x05depth" + b"\x12\x08\x12\x06\x0a\x04\x00\x00\x80\x3f"  # float_list {1.0}
    entries = b"".join(b"\x0a" + bytes([len(e)]) + e for e in (label, text, depth))
    parsed = example.parse(b"\x0a" + bytes([len(entries)]) + entries)
    assert parsed == {"label": [300], "text": [b"ab"], "depth": [1.0]}
    with pytest.raises(ValueError, match=r"not a tensorflow\.Example"):
        example.parse(b"\x0a\xff")
