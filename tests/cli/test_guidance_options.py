"""--guidance and --guidance-interval: classifier-free guidance to what the network is told."""

import textwrap

import numpy as np
import pytest

from sde_diffusion.cli import main, run

CONFIG = """
    from sde_diffusion.config import choice, default


    def get_config():
        config = default()
        config.data.source = choice("data.source", "digits", size=2)
        config.network = choice("network", "mlp", features=16, num_blocks=1, num_classes=10)
        config.conditions.label.drop = 0.5
        config.optim.update(lr=1e-2, warmup=1)
        config.training.update(
            batch_size=64, steps=40, steps_per_call=20, sample_every=40, checkpoint_every=40
        )
        config.sampling.update(steps=4, batch_size=20)
        return config
"""


@pytest.fixture(scope="module")
def dropped(tmp_path_factory):
    """The folder of a tiny run of which half of the labels were left out."""
    folder = tmp_path_factory.mktemp("dropped")
    (folder / "config.py").write_text(textwrap.dedent(CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        arguments = ("--config", str(folder / "config.py"), "--workdir", str(folder / "run"))
        assert main(["train", *arguments]) == 0
    return folder / "run"


@pytest.fixture
def draw(dropped, call, tmp_path):
    """(samples, what was printed) with some options."""

    def drawn(*options):
        out = tmp_path / "x.npz"
        code, printed, err = call(
            "sample", "--workdir", dropped, "--num", 20, "--out", out, "--class", 3, *options
        )
        assert code == 0, err
        with np.load(out) as arrays:
            return arrays["image"], printed

    return drawn


def test_guidance_takes_two_evaluations_and_weight_1_one(draw):
    plain, printed = draw()
    assert "5 evaluations each" in printed
    same, printed = draw("--guidance", 1)
    assert "5 evaluations each" in printed
    np.testing.assert_array_equal(same, plain)
    guided, printed = draw("--guidance", 3)
    assert "10 evaluations each" in printed
    assert np.max(np.abs(guided - plain)) > 0.1


def test_guidance_on_an_interval_is_computed_there_alone(draw):
    plain, _ = draw()
    everywhere, _ = draw("--guidance", 3)
    wide, printed = draw("--guidance", 3, "--guidance-interval", "0,1e9")
    assert "10 evaluations each" in printed
    np.testing.assert_allclose(wide, everywhere, rtol=1e-5, atol=1e-4)
    nowhere, printed = draw("--guidance", 3, "--guidance-interval", "1e8,1e9")
    assert "5 evaluations each" in printed
    np.testing.assert_allclose(nowhere, plain, rtol=1e-5, atol=1e-4)
    _, printed = draw("--guidance", 3, "--guidance-interval", "0.1,2")
    assert any(f" {n} evaluations each" in printed for n in (6, 7, 8, 9))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--guidance", "nan"), ("--guidance", "nan")),
        (("--guidance-interval", "0.1,2"), ("--guidance-interval needs --guidance",)),
        (("--guidance", "2", "--guidance-interval", "3"), ("LOW,HIGH", "'3'")),
        (("--guidance", "2", "--guidance-interval", "3,1"), ("0 <= LOW < HIGH", "3,1")),
    ],
)
def test_what_is_no_guidance_is_one_line(dropped, call, tmp_path, options, words):
    code, _, err = call("sample", "--workdir", dropped, "--out", tmp_path / "x.npz", *options)
    lines = err.strip().splitlines()
    assert (code, len(lines)) == (2, 1), err
    for word in words:
        assert word in lines[0]


def test_a_network_that_always_had_its_class_cannot_be_guided(trained, call, tmp_path):
    code, _, err = call(
        "sample", "--workdir", trained, "--out", tmp_path / "x.npz", "--guidance", 2
    )
    assert code == 2
    assert "never trained without its label (config.conditions.label.drop is 0)" in err
