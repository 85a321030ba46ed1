"""Tar and ArrayRecord files: which are read, what is refused, and the index of a tar file."""

import os

import numpy as np
import pytest
from files import encoded, pixels, write_files, write_tar

from sde_diffusion.data import Feature, from_arrays, load, take, write_array_record
from sde_diffusion.data.formats import example, tar_index
from sde_diffusion.data.formats.shards import shards
from sde_diffusion.data.sources.array_record import SUFFIX
from sde_diffusion.data.sources.webdataset import TAR

A, B, C = pixels(3)


def images(source):
    return take(source, np.arange(len(source)))["image"]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("", ["a-08.tar", "a-09.tar", "a-10.tar", "b.tar"]),
        ("b.tar", ["b.tar"]),
        ("a-*.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("a-{09..10}.tar", ["a-09.tar", "a-10.tar"]),
    ],
)
def test_a_path_stands_for_a_file_a_folder_a_pattern_or_a_range(tmp_path, path, found):
    names = ("a-10.tar", "a-09.tar", "a-08.tar", "b.tar", ".c.tar", "c.tar.gz", "notes.txt")
    write_files(tmp_path, dict.fromkeys(names, ""))
    assert shards(str(tmp_path / path), TAR) == [str(tmp_path / name) for name in found]


def test_the_names_of_tensorflow_datasets_are_known(tmp_path):
    write_files(tmp_path, dict.fromkeys(("m-train.array_record-00000-of-00002", "f.json"), ""))
    assert len(shards(str(tmp_path), SUFFIX)) == 1


@pytest.mark.parametrize("path", ["a-{1..3}.tar", "b.tar", "b-*.tar", ""])
def test_a_path_that_stands_for_nothing_is_named(tmp_path, path):
    with pytest.raises(FileNotFoundError, match=r"no such file|no files here"):
        shards(str(tmp_path / path), TAR)


def test_a_sample_is_the_members_of_one_name_that_follow_each_other(tmp_path):
    members = {
        "./readme.md": "no sample",
        "./a.b/1.jpg.json": "{}",
        "./a.b/1.PNG": A,
        "./a.b/1.mask.png": C,
        "./a.b/2.json": "{}",
        "./a.b/3.png": B,
        "./a.b/.hidden.png": C,
    }
    write_tar(tmp_path / "a.tar", members)
    source = load("webdataset", path=str(tmp_path / "a.tar"))
    np.testing.assert_array_equal(images(source), [A, B])
    assert source.features.keys() == {"image"}


@pytest.mark.parametrize("memory", [0.0, 1.0])
def test_classes_and_texts_are_read_and_can_be_left_out(tmp_path, memory):
    write_tar(
        tmp_path / "a.tar", {"1.png": A, "1.cls": "2\n", "1.txt": "ä", "2.png": B, "2.cls": "0"}
    )
    with pytest.raises(ValueError, match=r"1 of 2 images have no caption.*a\.tar: 2\.png"):
        load("webdataset", path=str(tmp_path))
    source = load("webdataset", path=str(tmp_path), missing_captions="empty", memory=memory)
    assert take(source, np.array([1, 0]))["text"].tolist() == ["", "ä"]
    assert take(source, np.array([1, 0]))["label"].tolist() == [0, 2]
    expected = Feature((), "int32", classes=("0", "1", "2"), counts=(1, 0, 1))
    assert source.features["label"] == expected
    assert len(load("webdataset", path=str(tmp_path), missing_captions="drop")) == 1
    plain = load("webdataset", path=str(tmp_path), captions=False, labels=False)
    assert plain.features.keys() == {"image"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.txt": "a"}, "no images in these tar files"),
        ({"1.png": A, "1.cls": "cat"}, r"1\.cls holds b'cat', not a class's number"),
        ({"1.png": A, "2.png": B, "2.cls": "3"}, r"1 of 2 samples have no \.cls.*a\.tar: 1\.png"),
        ({"1.png": A, "2.png": A[1:]}, r"a\.tar: 2\.png is 6x3, but .*1\.png is 6x4"),
        ({"1.png": b"none"}, r"a\.tar: 1\.png: cannot read this image"),
    ],
)
def test_samples_that_do_not_fit_are_named(tmp_path, members, message):
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=message):
        load("webdataset", path=str(tmp_path / "a.tar"))


@pytest.mark.parametrize("name", ["../../evil.png", "/evil.png"])
def test_a_member_whose_name_leads_out_is_read_and_written_nowhere(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "a.tar", {name: A})
    np.testing.assert_array_equal(images(load("webdataset", path="a.tar")), [A])
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]
    assert not os.path.exists("/evil.png")


def test_a_compressed_tar_file_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar.gz", {"1.png": A}, "w:gz")
    with pytest.raises(ValueError, match=r"a\.tar\.gz: not a whole, uncompressed tar file"):
        load("webdataset", path=str(tmp_path / "a.tar.gz"))


@pytest.mark.parametrize("kept", [700, 10_000])
def test_a_tar_file_that_is_cut_off_is_named(tmp_path, kept):
    write_tar(tmp_path / "a.tar", {f"{i}.png": pixels(1, 32, 32)[0] for i in range(5)})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"a\.tar: .*(not a whole|cut off)"):
        load("webdataset", path=str(tmp_path / "a.tar"))


def test_a_tar_file_is_indexed_once_and_again_when_it_changes(tmp_path, cache, monkeypatch):
    scans = []
    scan = tar_index._scan
    monkeypatch.setattr(tar_index, "_scan", lambda *args: scans.append(1) or scan(*args))
    write_tar(tmp_path / "a.tar", {"1.png": A})
    for _ in range(2):
        np.testing.assert_array_equal(images(load("webdataset", path=str(tmp_path))), [A])
    assert len(scans) == 1
    write_tar(tmp_path / "a.tar", {"1.png": B, "2.png": C})
    np.testing.assert_array_equal(images(load("webdataset", path=str(tmp_path))), [B, C])
    assert len(scans) == 2
    assert len(list(cache.iterdir())) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


def write_examples(path, records):
    from array_record.python import array_record_module

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for fields in records:
        message = example._message()()
        for name, value in fields.items():
            feature = message.features.feature[name]
            values = feature.bytes_list if isinstance(value, bytes) else feature.int64_list
            values.value.append(value)
        writer.write(message.SerializeToString())
    writer.close()


def test_what_tensorflow_datasets_writes_is_read_with_its_class_names(tmp_path):
    rows = [{"image": encoded(A), "label": 1}, {"image": encoded(B), "label": 0}]
    write_examples(tmp_path / "m-train.array_record-00000-of-00001", rows)
    pattern = str(tmp_path / "m-train*")
    with pytest.raises(ValueError, match="how many classes there are is not known"):
        load("array_record", path=pattern)
    assert load("array_record", path=pattern, classes=3).features.num_classes == 3
    assert load("array_record", path=pattern, label_field=None).features.keys() == {"image"}
    (tmp_path / "label.labels.txt").write_text("cat\ndog\n")
    source = load("array_record", path=pattern)
    np.testing.assert_array_equal(images(source), [A, B])
    assert [source[i]["label"] for i in range(2)] == [1, 0]
    assert source.features["label"].classes == ("cat", "dog")


def test_the_fields_of_other_examples_can_be_named(tmp_path):
    write_examples(
        tmp_path / "a.array_record", [{"jpg": encoded(A, "JPEG"), "txt": b"ein B\xc3\xa4r"}]
    )
    fields = {"image_field": "jpg", "text_field": "txt", "size": 2, "channels": 1}
    source = load("array_record", path=str(tmp_path), **fields)
    assert source[0]["image"].shape == (2, 2, 1)
    assert source[0]["text"] == "ein Bär"
    with pytest.raises(ValueError, match="no field 'image', only jpg, txt; image_field says"):
        load("array_record", path=str(tmp_path))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"label": 1}, "record 1 has no field 'image'"),
        ({"image": encoded(B)}, "record 1 has no field 'label'"),
        ({"image": encoded(B), "label": 2}, "record 1: a label of 2, which is not a class"),
        ({"image": encoded(B)[:50], "label": 0}, "record 1: cannot read this image"),
    ],
)
def test_a_record_that_does_not_fit_is_named(tmp_path, record, message):
    rows = [{"image": encoded(A), "label": 1}, record]
    write_examples(tmp_path / "a.array_record", rows)
    with pytest.raises(ValueError, match=message):
        images(load("array_record", path=str(tmp_path), classes=2, memory=0.0, size=4))


def test_files_of_another_kind_are_named(tmp_path):
    write_files(tmp_path, {"a.array_record": "not one"})
    with pytest.raises(ValueError, match="not whole ArrayRecord files"):
        load("array_record", path=str(tmp_path))


def test_writing_keeps_every_feature_and_never_mixes_with_what_is_there(tmp_path):
    arrays = {
        "x": np.random.default_rng(0).normal(size=(7, 3)),
        "label": np.arange(7) % 2,
        "mask": np.arange(14, dtype=np.uint8).reshape(7, 2),
        "weight": np.linspace(0, 1, 7, dtype=np.float16),
        "text": np.array(["", "ä", "b", "c", "d", "e", "f"]),
    }
    source = from_arrays("points", arrays, low=-1, high=1, classes=["no", "yes"])
    write_array_record(source, str(tmp_path), shard_size=3)
    again = load("array_record", path=str(tmp_path))
    assert again.features == source.features
    rows = np.arange(7)
    for name, array in take(source, rows).items():
        np.testing.assert_array_equal(take(again, rows)[name], array)
        assert take(again, rows)[name].dtype == array.dtype
    with pytest.raises(ValueError, match="holds ArrayRecord files already"):
        write_array_record(source, str(tmp_path))
