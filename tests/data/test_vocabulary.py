"""Words as tokens, and the vocabulary that goes with the features of a source."""

import numpy as np
import pytest

from sde_diffusion.data import Features, from_arrays, in_words, tokens_of
from sde_diffusion.data.vocabulary import unknown_words, vocabulary_of, word_tokens, words

TEXTS = ["a red heart", "Red circle", "a red-hot keycap #"]


def captioned(texts=TEXTS):
    image = np.zeros((len(texts), 2, 2, 1), np.uint8)
    return from_arrays("captioned", {"image": image, "text": np.array(texts)})


def test_words_are_letters_and_digits_in_lower_case_and_a_few_signs():
    found = words("Man: medium-dark, keycap #1 (é)!")
    assert found == ["man", "medium", "dark", "keycap", "#", "1", "é", "!"]


def test_a_vocabulary_has_the_most_frequent_words_first_and_ties_in_order():
    assert vocabulary_of(TEXTS, 100) == ("red", "a", "#", "circle", "heart", "hot", "keycap")
    assert vocabulary_of(TEXTS, 4) == ("red", "a")


def test_tokens_are_padding_unknown_and_the_words_in_order():
    known = ("red", "a")
    np.testing.assert_array_equal(word_tokens("a red heart", 5, known), [3, 2, 1, 0, 0])
    np.testing.assert_array_equal(word_tokens("a red heart", 2, known), [3, 2])
    np.testing.assert_array_equal(word_tokens("", 2, known), [0, 0])
    assert unknown_words("a blue Heart, a heart", known) == ["blue", "heart"]


def test_a_source_in_words_says_in_its_features_what_its_tokens_mean():
    source = in_words(captioned(), 4, vocabulary=6)
    feature = source.features["tokens"]
    assert feature.words == ("red", "a", "#", "circle")
    assert (feature.low, feature.high) == (0, 5)
    np.testing.assert_array_equal(source[0]["tokens"], [3, 2, 1, 0])
    again = Features.from_json(source.features.to_json())["tokens"]
    np.testing.assert_array_equal(tokens_of("a red heart", again), source[0]["tokens"])


def test_tokens_of_a_feature_without_words_are_bytes():
    feature = Features.from_json(captioned().features.to_json())["image"]
    bytes_feature = type(feature)((3,), "int32", 0, 256)
    np.testing.assert_array_equal(tokens_of("ab", bytes_feature), [98, 99, 0])


@pytest.mark.parametrize(("length", "vocabulary"), [(0, 10), (4, 2)])
def test_numbers_out_of_their_range_are_refused(length, vocabulary):
    with pytest.raises(ValueError, match=f"got {length}, {vocabulary}"):
        in_words(captioned(), length, vocabulary)


def test_a_source_without_text_has_no_words():
    with pytest.raises(ValueError, match="x: no text to tokenize, only image"):
        in_words(from_arrays("x", {"image": np.zeros((2, 2, 2, 1), np.uint8)}), 4, 10)


def test_a_source_is_read_in_given_words():
    made = in_words(captioned(), 3, 4, ("heart", "cat"))
    assert made.features["tokens"].words == ("heart", "cat")
    np.testing.assert_array_equal(made[0]["tokens"], [1, 1, 2])
    with pytest.raises(ValueError, match="2 words do not fit into a vocabulary of 3"):
        in_words(captioned(), 3, 3, ("heart", "cat"))
