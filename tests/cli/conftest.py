"""A tiny experiment, and the command line called in this process."""

import textwrap

import pytest

from sde_diffusion.cli import draw, main, run

TINY = """
    from sde_diffusion.config import choice, default


    def get_config():
        config = default()
        config.data.source = choice("data.source", "digits")
        config.network = choice("network", "mlp", features=16, num_blocks=1, num_classes=10)
        config.optim.update(lr=1e-3, warmup=2, ema_rates=(0.9,))
        config.training.update(
            batch_size=32, steps=8, log_every=2, sample_every=4, checkpoint_every=4
        )
        config.sampling.update(steps=3, batch_size=20)
        config.eval.num = 40
        return config
"""


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    # Nothing is written outside the test's own folder, and no test finds another one's programs.
    monkeypatch.setattr(run, "enable_cache", lambda: None)


@pytest.fixture(scope="session")
def tiny_text():
    return textwrap.dedent(TINY)


@pytest.fixture
def tiny(tmp_path, tiny_text):
    path = tmp_path / "tiny.py"
    path.write_text(tiny_text)
    return path


@pytest.fixture
def call(capfd):
    """call(arguments) -> (exit code, standard output, standard error)."""

    def run_main(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run_main


@pytest.fixture
def asked(monkeypatch):
    """What samples are drawn under, in the order of the calls."""
    seen, original = [], draw.draw

    def spied(*args, under, **kwargs):
        seen.append(under)
        return original(*args, under=under, **kwargs)

    monkeypatch.setattr(draw, "draw", spied)
    return seen


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_text):
    """The folder of a finished tiny run; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "tiny.py"
    config.write_text(tiny_text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        assert main(["train", "--config", str(config), "--workdir", str(folder / "run")]) == 0
    return folder / "run"
