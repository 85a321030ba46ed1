"""Features describe records, refuse what cannot be, and survive JSON."""

import json

import numpy as np
import pytest

from sde_diffusion.data import ArraySource, Feature, Features, from_arrays, take

WHOLE = Features(
    {
        "image": Feature((4, 4, 3), "uint8", 0, 255),
        "label": Feature((), "int32", classes=("cat", "dog"), counts=(3, 0)),
        "text": Feature((), "str"),
        "depth": Feature((4, 4, 1), "float32", -1.5, 2.0),
    }
)


def test_the_description_survives_json():
    assert Features.from_json(WHOLE.to_json()) == WHOLE
    assert list(Features.from_json(WHOLE.to_json())) == list(WHOLE)
    assert json.loads(WHOLE.to_json())["label"]["classes"] == ["cat", "dog"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"image": 3}', '{"image": {"size": 3}}'])
def test_a_text_that_describes_no_features_is_refused(text):
    with pytest.raises(ValueError, match=r"features|needs one of image"):
        Features.from_json(text)


def test_the_event_is_the_image_and_otherwise_x():
    point = Feature((2,), "float32", -1, 1)
    assert (WHOLE.event_name, WHOLE.event.range, WHOLE.num_classes) == ("image", (0, 255), 2)
    assert Features({"depth": WHOLE["depth"], "x": point}).event_name == "x"
    assert Features({"x": point}).num_classes == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "object"}, "numeric or 'str', got 'object'"),
        ({"low": 1.0, "high": 1.0}, "low must be below high.*1.0 and 1.0"),
        ({"low": np.nan, "high": 1.0}, "low must be below high.*nan"),
        ({"low": 0.0, "high": np.inf}, "both finite"),
        ({"low": 0.0}, "low and high go together"),
        ({"dtype": "str", "shape": (2,)}, "a text has shape"),
        ({"dtype": "str", "shape": (), "low": 0, "high": 1}, "a text has shape"),
        ({"classes": ("a",)}, "only a whole number has classes"),
        ({"dtype": "int32", "shape": (), "classes": ("a",), "counts": (1, 2)}, "2 counts for 1"),
    ],
)
def test_a_feature_checks_its_fields_against_each_other(fields, message):
    with pytest.raises(ValueError, match=message):
        Feature(**({"shape": (4, 4), "dtype": "float32"} | fields))


@pytest.mark.parametrize(
    ("arrays", "fields", "message"),
    [
        ({"x": np.zeros((2, 2), np.int64)}, {}, "uint8 or float, got int64"),
        ({"x": np.zeros(2)}, {}, r"shape \('N',\)"),
        ({"x": np.zeros((2, 2))}, {"low": 1.0}, "low must be below high.*1.0 and 1.0"),
        ({"x": np.zeros((2, 2))}, {"low": None, "high": None}, "a: x of float64 needs its range"),
        ({"x": np.zeros((2, 2))}, {"classes": ["a"]}, "classes are given, but no label"),
        ({"x": np.zeros((2, 2)), "label": np.array([0, 3])}, {"classes": ["a"]}, "a label of 3"),
        ({"x": np.zeros((2, 2)), "depth": np.zeros((3, 2))}, {}, "depth must have one row for"),
        ({"depth": np.zeros((2, 2))}, {}, "needs one of image, audio, x, mean, got depth"),
    ],
)
def test_arrays_that_are_no_records_are_refused(arrays, fields, message):
    with pytest.raises(ValueError, match=message):
        from_arrays("a", arrays, **({"low": 0.0, "high": 1.0} | fields))


def test_arrays_must_be_what_the_features_say():
    x, features = np.zeros((3, 2)), Features({"x": Feature((2,), "float32", 0, 1)})
    with pytest.raises(ValueError, match=r"a: x is float64 of shape .*, not float32"):
        ArraySource("a", {"x": x}, features)
    with pytest.raises(ValueError, match=r"a: arrays \['y'\] but features \['x'\]"):
        ArraySource("a", {"y": x}, features)


def test_a_source_of_single_records_is_taken_like_one_of_arrays():
    class Single:
        name, features = "single", WHOLE

        def __len__(self):
            return 3

        def __getitem__(self, i):
            image = np.full((4, 4, 3), i, np.uint8)
            depth = np.full((4, 4, 1), i, np.float32)
            return {"image": image, "label": np.int32(i), "text": "a" * i, "depth": depth}

    batch = take(Single(), np.array([2, 0]))
    assert batch["text"].tolist() == ["aa", ""]
    np.testing.assert_array_equal(batch["label"], [2, 0])
    assert {name: (a.shape, a.dtype.name) for name, a in batch.items() if name != "text"} == {
        "image": ((2, 4, 4, 3), "uint8"),
        "label": ((2,), "int32"),
        "depth": ((2, 4, 4, 1), "float32"),
    }
