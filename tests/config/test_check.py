"""A config is checked as a whole: what does not fit is named with what it does not fit."""

import logging

import pytest

from sde_diffusion.config import choice, default
from sde_diffusion.config.check import check, problems
from sde_diffusion.config.schema import override
from sde_diffusion.data import Feature, Features

IMAGES = Features(
    {
        "image": Feature((8, 8, 1), "uint8", 0, 255),
        "label": Feature((), "int32", classes=tuple("abc")),
        "tokens": Feature((5,), "int32", 0, 256),
        "condition": Feature((8, 8, 2), "uint8", 0, 255),
    }
)
POINTS = Features({"x": Feature((2,), "float32", -1.0, 1.0)})


def small(**overrides):
    """A config whose network is an MLP, with fields changed: `sde__name="ve"`, for example."""
    config = default()
    config.network = choice("network", "mlp", features=8, num_blocks=1)
    config.training.batch_size = 16
    return override(config, {key.replace("__", "."): str(v) for key, v in overrides.items()})


def unet(**changes):
    fields = {
        **{"nf": 4, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,)},
        **{"embedding_type": "positional", "scale_by_sigma": False},
    }
    config = default()
    config.network = choice("network", "ncsnpp", **fields | changes)
    config.training.batch_size = 8
    return config


def found(config, features=IMAGES):
    with pytest.raises(ValueError, match="config") as caught:
        check(config, features)
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "features"),
    [(default(), Features({"image": Feature((32, 32, 3), "uint8", 0, 255)})), (unet(), IMAGES)],
)
def test_the_default_fits_itself(config, features):
    assert list(problems(config, features)) == []


def test_a_config_that_fits_passes():
    check(small(), POINTS)
    check(small(network__num_classes=3, conditions__label__drop=0.1), IMAGES)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"loss__name": "ddpm", "sde__name": "ve"}, ("loss.name 'ddpm'", "sde.name 'vp'", "'ve'")),
        (
            {"loss__name": "ddpm", "parameterization__name": "edm"},
            ("loss.name 'ddpm'", "parameterization.name 'ddpm' or 'v'", "'edm'"),
        ),
        (
            {"loss__name": "smld", "sde__name": "edm", "parameterization__name": "smld"},
            ("loss.name 'smld'", "sde.name 've'", "'edm'"),
        ),
        ({"loss__name": "smld", "sde__name": "ve"}, ("'smld'", "parameterization.name 'smld'")),
        (
            {"network__embedding_type": "fourier"},
            ("network.embedding_type 'fourier'", "parameterization.name 'ddpm'", "'ncsn'"),
        ),
        (
            {"network__embedding_type": "fourier", "parameterization__name": "edm"},
            ("network.embedding_type 'fourier'", "parameterization.name 'edm'", "log(sigma"),
        ),
        ({"optim__accumulate": 3}, ("optim.accumulate is 3", "training.batch_size 16")),
        ({"data__flip": True}, ("data.flip", "(2,)")),
        ({"data__dequantize": True}, ("data.dequantize", "float32")),
        ({"network__num_classes": 3}, ("takes label", "'label' of a record", "only x")),
        ({"conditions__label__drop": 0.1}, ("conditions.label.drop", "takes no label")),
        ({"conditions__tokens__drop": 1.5}, ("conditions.tokens.drop", "[0, 1)", "1.5")),
        ({"training__steps": 9}, ("optim.warmup is 5000", "below config.training.steps, 9")),
    ],
)
def test_fields_that_do_not_fit_each_other_are_named_together(overrides, words):
    told = found(small(**overrides), POINTS)
    for word in words:
        assert word in told


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (unet(scale_by_sigma=True), ("network.scale_by_sigma", "'positional'", "'ddpm'")),
        (unet(ch_mult=(1, 1, 1, 1, 1)), ("ch_mult has 5 levels", "8x8")),
        (unet(num_classes=4), ("num_classes is 4", "'label' has 3 classes")),
        (unet(vocabulary=10), ("vocabulary is 10", "'tokens' has 257")),
        (unet(image_channels=1), ("image_channels is 1", "(8, 8, 2)", "(8, 8, 1)")),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_told_so(config, words):
    told = found(config)
    for word in words:
        assert word in told


def test_a_network_of_images_is_refused_for_points():
    assert "takes images [H, W, C], and x has the shape (2,)" in found(unet(), POINTS)


def test_the_levels_of_noise_of_a_network_are_those_of_the_sde():
    config = unet(scale_by_sigma=True, sigma_max=20.0)
    config.sde = choice("sde", "ve", sigma_max=50.0)
    config.parameterization = choice("parameterization", "smld")
    config.loss.name = "smld"
    assert "network.sigma_max is 20.0 and config.sde.sigma_max 50.0" in found(config)
    config.network.sigma_max = 50.0
    assert list(problems(config, IMAGES)) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"training__keep": 0}, ("keep: 0 is not at least 1",)),
        ({"training__steps": 0}, ("steps: 0",)),
        ({"seed": -1}, ("seed must be", "-1")),
        ({"optim__lr": -1.0}, ("lr: -1.0",)),
        ({"sampling__steps": 0}, ("sampling.steps", "got 0")),
        ({"training__compiler_options": "xla_no_such=1"}, ("xla_no_such",)),
        ({"mesh__fsdp": 3}, ("fsdp", "3")),
        ({"training__keep": 0, "sampling__steps": 0}, ("keep: 0", "sampling.steps")),
    ],
)
def test_what_cannot_be_built_is_told_in_one_line(overrides, words):
    with pytest.raises(ValueError, match=words[0]) as caught:
        check(small(**overrides), POINTS)
    told = str(caught.value)
    assert "\n" not in told
    for word in words:
        assert word in told


def test_attention_at_a_height_that_no_level_has_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        check(unet(attn_resolutions=(4, 16)), IMAGES)
    assert "attn_resolutions has 16, but images of height 8 have levels of the heights 8, 4" in (
        caplog.text
    )


def test_a_loss_that_teaches_nothing_at_the_last_time_is_said(caplog):
    flow = {"sde__name": "flow", "parameterization__name": "flow"}
    flow |= {"sampling__grid__name": "uniform"}
    with caplog.at_level(logging.WARNING):
        check(small(**flow), POINTS)
    assert "loss.weighting.on=velocity is flow matching" in caplog.text
    caplog.clear()
    check(small(**flow, loss__weighting__on="velocity"), POINTS)
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["ddpm", "ncsn", "smld", "edm"])
def test_a_parameterization_is_refused_where_the_sde_ends_in_pure_noise(name):
    told = found(small(sde__name="flow", parameterization__name=name), POINTS)
    assert f"parameterization.name '{name}' does not fit config.sde.name 'flow'" in told
    assert "choose 'v' or 'flow' or t_max below 1" in told
    fields = {"sde__t_max": 0.99, "sampling__grid__name": "uniform"}
    check(small(sde__name="flow", parameterization__name=name, **fields), POINTS)


def test_the_levels_of_noise_of_a_network_are_those_of_no_other_sde():
    config = unet(scale_by_sigma=True)
    config.parameterization = choice("parameterization", "smld")
    assert "noise levels of config.sde.name 've', not of 'vp'" in found(config)
