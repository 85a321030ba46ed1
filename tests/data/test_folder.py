"""A folder of images: classes, captions, what is skipped, what is refused, and its index."""

import json
import os

import numpy as np
import pytest
from files import pixels, write_files

from sde_diffusion.data import load, take
from sde_diffusion.data.formats import listing

A, B, C = pixels(3)


def images(source):
    return take(source, np.arange(len(source)))["image"]


def test_the_folders_in_it_are_classes_in_the_order_of_their_names(tmp_path):
    write_files(tmp_path, {"cat/2.png": B, "ant/9.PNG": A, "cat/deep/3.png": C, "ant/n.md": "#"})
    source = load("folder", path=str(tmp_path))
    np.testing.assert_array_equal(images(source), [A, B, C])
    assert [source[i]["label"] for i in range(3)] == [0, 1, 1]
    assert source.features["image"].range == (0, 255)
    assert source.features["label"].classes == ("ant", "cat")
    assert source.features["label"].counts == (1, 2)


def test_folders_that_are_numbers_are_ordered_as_numbers(tmp_path):
    write_files(tmp_path, {f"{k}/a.png": A for k in range(12)})
    source = load("folder", path=str(tmp_path))
    assert source.features["label"].classes == tuple(str(k) for k in range(12))
    names = {i: source._source._reader.where(i) for i in range(12)}
    assert all(f"/{source[i]['label']}/a.png" in names[i] for i in range(12))


def test_names_that_are_not_all_numbers_are_ordered_as_texts(tmp_path):
    write_files(tmp_path, {f"{name}/a.png": A for name in ("10", "9", "x")})
    assert load("folder", path=str(tmp_path)).features["label"].classes == ("10", "9", "x")


def test_hidden_folders_and_what_systems_leave_behind_are_no_classes(tmp_path):
    hidden = (".ipynb_checkpoints/a.png", "__MACOSX/cat/._2.png", "cat/._2.png", ".a.png")
    write_files(tmp_path, {"cat/2.png": A, "empty/readme.txt": "", **dict.fromkeys(hidden, B)})
    source = load("folder", path=str(tmp_path))
    assert source.features["label"].classes == ("cat",)
    np.testing.assert_array_equal(images(source), [A])


def test_without_folders_in_it_there_are_no_labels(tmp_path):
    write_files(tmp_path, {"0.png": A, "1.png": B})
    source = load("folder", path=str(tmp_path))
    np.testing.assert_array_equal(images(source), [A, B])
    assert source.features.keys() == {"image"}


def test_images_beside_folders_are_taken_only_without_labels(tmp_path):
    write_files(tmp_path, {"a.png": A, "cat/b.png": B})
    with pytest.raises(ValueError, match=r"both beside folders and in them, such as a\.png"):
        load("folder", path=str(tmp_path))
    assert len(load("folder", path=str(tmp_path), labels=False)) == 2


def test_a_link_to_a_folder_above_it_ends(tmp_path):
    write_files(tmp_path / "data", {"cat/a.png": A})
    os.symlink(tmp_path / "data", tmp_path / "data" / "cat" / "again")
    write_files(tmp_path / "far", {"b.png": B})
    os.symlink(tmp_path / "far", tmp_path / "data" / "dog")
    source = load("folder", path=str(tmp_path / "data"))
    assert source.features["label"].classes == ("cat", "dog")
    np.testing.assert_array_equal(images(source), [A, B])


@pytest.mark.parametrize("memory", [0.0, 1.0])
def test_a_damaged_image_is_named_when_it_is_read(tmp_path, memory):
    write_files(tmp_path, {"a.png": A, "b.png": pixels(1, 64, 64)[0]})
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    source = load("folder", path=str(tmp_path), size=4, memory=memory)
    assert source[0]["image"].shape == (4, 4, 3)
    with pytest.raises(ValueError, match=r"b\.png: cannot read this image"):
        source[1]


def test_two_sizes_are_found_at_once_and_the_field_size_makes_them_one(tmp_path):
    write_files(tmp_path, {"a.png": A, "b.png": pixels(1, 8, 8)[0]})
    with pytest.raises(ValueError, match=r"b\.png is 8x8, but .*a\.png is 6x4: .* field size"):
        load("folder", path=str(tmp_path))
    assert images(load("folder", path=str(tmp_path), size=8)).shape == (2, 8, 8, 3)


def test_a_rare_other_size_is_found_when_it_is_read(tmp_path):
    write_files(tmp_path, {f"{i:03}.png": A for i in range(200)})
    write_files(tmp_path, {"001.png": pixels(1, 8, 8)[0]})
    source = load("folder", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"001\.png is 8x8, but .*000\.png is 6x4"):
        images(source)


def test_without_images_it_is_an_error(tmp_path):
    write_files(tmp_path, {"readme.txt": ""})
    with pytest.raises(ValueError, match="no images in this folder"):
        load("folder", path=str(tmp_path))


def test_decoded_images_are_kept_where_they_fit_in_memory(tmp_path):
    write_files(tmp_path, {"a.png": A, "b.png": B})
    kept = load("folder", path=str(tmp_path))
    read = load("folder", path=str(tmp_path), memory=0.0)
    np.testing.assert_array_equal(images(kept), images(read))
    (tmp_path / "a.png").unlink()
    np.testing.assert_array_equal(images(kept), [A, B])
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        images(read)


def test_the_index_of_a_large_folder_is_used_until_the_folder_changes(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(listing, "CACHED_FROM", 3)
    scans = []
    scan = listing._scan
    monkeypatch.setattr(listing, "_scan", lambda path: scans.append(1) or scan(path))

    def names():
        return list(listing.list_images(str(tmp_path)).files)

    write_files(tmp_path, {"cat/a.png": A, "dog/b.png": B})
    assert names() == ["cat/a.png", "dog/b.png"] == names()
    assert len(scans) == 1
    write_files(tmp_path, {"dog/c.png": C})
    assert names() == ["cat/a.png", "dog/b.png", "dog/c.png"] == names()
    (tmp_path / "cat" / "a.png").unlink()
    (tmp_path / "cat").rmdir()
    assert names() == ["dog/b.png", "dog/c.png"]
    assert len(scans) == 3
    for file in cache.iterdir():
        file.write_bytes(b"damaged")
    assert names() == ["dog/b.png", "dog/c.png"]
    assert len(scans) == 4


def test_a_small_folder_and_a_cache_that_cannot_be_written_need_no_index(tmp_path, monkeypatch):
    write_files(tmp_path / "data", {"a.png": A})
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(listing, "CACHED_FROM", 1)
    assert len(load("folder", path=str(tmp_path / "data"))) == 1


CAPTIONS = {
    "txt": {"a.txt": "an ant\n", "b.txt": "ein Bär"},
    "metadata.jsonl": {
        "metadata.jsonl": json.dumps({"file_name": "b.png", "text": "ein Bär"})
        + '\n\n{"file_name": "./a.png", "text": "an ant", "more": 3}\n'
    },
    "captions.csv": {"captions.csv": 'file_name,text\na.png,an ant\nb.png,"ein Bär"\n'},
}


@pytest.mark.parametrize("kind", CAPTIONS)
def test_captions_stand_beside_images_or_in_a_table(tmp_path, kind):
    write_files(tmp_path, {"a.png": A, "b.png": B, **CAPTIONS[kind]})
    source = load("folder", path=str(tmp_path), captions=kind)
    records = [source[i] for i in range(2)]
    found = {str(record["text"]): record["image"].tobytes() for record in records}
    assert found == {"an ant": A.tobytes(), "ein Bär": B.tobytes()}
    assert source.features["text"].dtype == "str"


def test_captions_and_classes_go_together(tmp_path):
    write_files(tmp_path, {"cat/a.png": A, "cat/a.txt": "a", "ant/b.png": B, "ant/b.txt": "b"})
    source = load("folder", path=str(tmp_path), captions="txt")
    batch = take(source, np.array([0, 1]))
    assert batch["text"].tolist() == ["b", "a"]
    assert batch["label"].tolist() == [0, 1]


def test_an_image_may_have_several_captions_in_a_table_in_a_subfolder(tmp_path):
    table = "image,caption\na.png,one\na.png,two\n"
    write_files(tmp_path, {"part/a.png": A, "part/t.csv": table})
    fields = {"captions": "part/t.csv", "file_field": "image", "text_field": "caption"}
    source = load("folder", path=str(tmp_path), **fields)
    assert [source[i]["text"] for i in range(2)] == ["one", "two"]
    np.testing.assert_array_equal(images(source), [A, A])


@pytest.mark.parametrize("kind", CAPTIONS)
def test_missing_captions_are_counted_and_the_first_is_named(tmp_path, kind):
    write_files(tmp_path, {"a.png": A, "b.png": B, **CAPTIONS[kind]})
    write_files(tmp_path, {"ab.png": C, "z.png": C})
    with pytest.raises(ValueError, match=r"2 of 4 images have no caption, the first is .*/ab\.png"):
        load("folder", path=str(tmp_path), captions=kind)
    dropped = load("folder", path=str(tmp_path), captions=kind, missing_captions="drop")
    assert sorted(dropped[i]["text"] for i in range(len(dropped))) == ["an ant", "ein Bär"]
    kept = load("folder", path=str(tmp_path), captions=kind, missing_captions="empty")
    assert sorted(kept[i]["text"] for i in range(len(kept))) == ["", "", "an ant", "ein Bär"]


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("t.jsonl", '{"file_name": "a.png", "text": "x"}\n{"file', r"t\.jsonl, line 2: not JSON"),
        ("t.jsonl", '["a.png", "x"]', "line 1: not a JSON object"),
        ("t.jsonl", '{"file_name": "a.png"}', "line 1: no text in the field 'text', only in file_"),
        ("t.csv", "file,text\na.png,x\n", "line 2: no text in the field 'file_name', only in file"),
        ("t.csv", "file_name,text\nb.png,x\n", "line 2: 'b.png' is not an image in this folder"),
        ("t.csv", "file_name,text\n../secret.png,x\n", "'../secret.png' is not an image in this"),
        ("t.jsonl", '{"file_name": "/etc/a.png", "text": ""}', "'/etc/a.png' is not an image"),
    ],
)
def test_a_table_that_does_not_fit_names_its_line(tmp_path, name, table, message):
    write_files(tmp_path, {"secret.png": B, "data/a.png": A, f"data/{name}": table})
    with pytest.raises(ValueError, match=message):
        load("folder", path=str(tmp_path / "data"), captions=name)


def test_a_caption_that_is_no_text_is_named(tmp_path):
    write_files(tmp_path, {"a.png": A, "a.txt": b"\xff\xfe"})
    with pytest.raises(ValueError, match=r"a\.txt: not UTF-8"):
        load("folder", path=str(tmp_path), captions="txt")[0]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"captions": "t.csv"}, FileNotFoundError, r"t\.csv: no such file"),
        ({"captions": "t.json"}, ValueError, "captions must be 'txt' or the name of a .jsonl"),
        ({"captions": "txt", "missing_captions": "ignore"}, ValueError, "'ignore'.*error, drop"),
        ({"captions": "txt", "missing_captions": "drop"}, ValueError, "no image .* has a caption"),
    ],
)
def test_captions_that_cannot_be_are_named(tmp_path, fields, error, message):
    write_files(tmp_path, {"a.png": A})
    with pytest.raises(error, match=message):
        load("folder", path=str(tmp_path), **fields)
