"""What config.eval says of the judge of captions is checked before a run begins."""

import inspect

import pytest

from sde_diffusion.config import choice, default
from sde_diffusion.config.check import check
from sde_diffusion.config.judging import problems
from sde_diffusion.config.schema import override
from sde_diffusion.data import PARTS, SOURCES, Feature, Features

NAMED = Features(
    {
        "image": Feature((8, 8, 3), "uint8", 0, 255),
        "text": Feature((), "str"),
        "tokens": Feature((5,), "int32", 0, 31),
    }
)


def drawn(**overrides):
    """A config of named drawings, with fields changed: `eval__parts="train"`, for example."""
    config = default()
    config.data.source = choice("data.source", "openmoji")
    config.network = choice("network", "mlp", features=8, num_blocks=1, vocabulary=32)
    config.training.batch_size = 16
    return override(config, {key.replace("__", "."): value for key, value in overrides.items()})


def test_every_part_of_a_source_may_be_asked_for_and_no_part():
    check(drawn(eval__parts=",".join(PARTS["openmoji"])), NAMED)
    check(drawn(data__source__name="mixture2d", eval__parts=""), NAMED)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            {"eval__parts": "combinations,drawing"},
            "config.eval.parts: unknown part of openmoji 'drawing'; did you mean 'drawings'? "
            f"(choices: {', '.join(PARTS['openmoji'])})",
        ),
        (
            {"eval__parts": "drawings", "data__source__name": "mixture2d"},
            "config.eval.parts: the data source 'mixture2d' has no parts "
            "(--config.eval.parts= asks for none)",
        ),
        (
            {"eval__parts": "drawings", "network__vocabulary": "None"},
            "config.eval.parts: the network reads no text",
        ),
        (
            {"eval__parts": "drawings", "eval__captions": "0"},
            "config.eval.parts: config.eval.captions is 0",
        ),
        (
            {"eval__captions": "1"},
            "config.eval.captions must be at least 2, or 0 for no judge, got 1",
        ),
        ({"eval__judge_steps": "0"}, "config.eval.judge_steps must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_run_begins(overrides, told):
    config = drawn(**overrides)
    assert list(problems(config, NAMED)) == [told]
    with pytest.raises(ValueError, match="eval") as caught:
        check(config, NAMED)
    assert str(caught.value) == told


def test_the_sources_that_have_parts_are_those_with_the_field():
    having = [name for name in SOURCES if "part" in inspect.signature(SOURCES[name]).parameters]
    assert having == list(PARTS)
