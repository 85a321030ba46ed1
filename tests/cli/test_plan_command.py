"""sde-diffusion plan, from the command line."""

import json
from pathlib import Path

import jax
import jaxlib
import pytest

from sde_diffusion.cli import plan, plan_search, plan_table, start
from sde_diffusion.config import build
from sde_diffusion.config import schema as configs
from sde_diffusion.planning import Chip, Topology, named

VE = Path(__file__).parents[2] / "configs" / "ve"
COSTS = {
    "arguments",
    "temporaries",
    "peak",
    "flops",
    "bytes_accessed",
    "bytes_moved",
    "collectives",
    "cycles",
    "floor_seconds",
    "estimate_seconds",
    "images_per_second",
    "compile_seconds",
    "fits",
}


def test_the_costs_of_both_programs_are_printed(call, tiny):
    code, out, err = call("plan", "--config", tiny, "--topology", "cpu:8")
    assert code == 0, err
    assert "8 x CPU (data 8, fsdp 1), " in out.splitlines()[0]
    assert "training step" in out
    assert "dpmpp_2m step" in out
    assert "all-reduce" in out
    assert "not given by this compiler" in out
    assert "3 steps and 4 evaluations of the network, 1 a step" in out
    assert f"the estimates of jaxlib {jaxlib.__version__}" in out
    assert "compiling the training step for cpu:8" in err


def test_json_has_the_same_costs_as_plain_values(call, tiny):
    code, out, err = call("plan", "--config", tiny, "--topology", "cpu:4", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["devices"] == 4
    for program in ("training", "sampling"):
        assert found[program].keys() >= COSTS
    (gradients,) = found["training"]["collectives"]
    assert gradients["kind"] == "all-reduce"
    assert gradients["bytes"] == pytest.approx(4 * found["parameters"], abs=8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--topology", "v5e:5x5"), ("unknown topology", "v5e:4x4")),
        (("--topology", "m1"), ("unknown topology", "v5e", "cpu")),
        (("--topology", "cpu:8", "--event", "0,x"), ("--event", "64,64,3")),
        (("--topology", "cpu:8", "--config.mesh.fsdp=3"), ("mesh.fsdp", "3")),
        (("--topology", "cpu:8", "--config.training.batch_size=12"), ("batch_size", "12", "8")),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(call, tiny, arguments, words):
    code, _, err = call("plan", "--config", tiny, *arguments)
    assert code == 2
    line = err.splitlines()[-1]
    assert line.startswith("sde-diffusion: error: ")
    assert all(word in line for word in words), line


def test_data_of_known_shape_need_not_be_present():
    config = configs.load(VE / "cifar10_ncsnpp_continuous.py")
    assert plan.features_of(config).event.shape == (32, 32, 3)


def test_other_data_need_not_be_present_where_their_shape_is_given():
    config = configs.load(VE / "church_ncsnpp_continuous.py")
    with pytest.raises(ValueError, match="--event 64,64,3"):
        plan.features_of(config)
    assert plan.features_of(config, (256, 256, 3)).event.shape == (256, 256, 3)


@pytest.fixture(scope="module")
def small():
    """Eight devices of a chip with next to no memory."""
    chip = Chip("toy", flops=1e9, memory=1000, bandwidth=1e9, links=1e9, clock=1e9, source="none")
    return Topology("toy", chip, named("cpu:8").devices)


@pytest.fixture(scope="module")
def too_large(small):
    """A plan that does not fit."""
    config = configs.default()
    config.network = configs.choice("network", "mlp", features=16, num_blocks=1)
    config.training.batch_size = 32
    return plan.plan_config(config, small, plan.features_of(config))


@pytest.mark.parametrize(
    ("name", "teacher", "guidance"),
    [("trajectory", "", None), ("consistency", "absent", (1.0, 4.0)), ("scm", "", None)],
)
def test_a_teacher_is_planned_by_its_shapes_wherever_it_is(name, teacher, guidance):
    config = configs.default()
    config.network = configs.choice("network", "mlp", features=16, num_blocks=1, num_classes=3)
    config.conditions.label.drop = 0.1
    config.flow_map = configs.choice("flow_map", name)
    config.teacher.update(path=teacher, guidance=guidance)
    config.training.batch_size = 4
    features = plan.features_of(config, (2,))
    costs = plan.plan_training(config, named("cpu:1"), features)
    assert costs["flops"] > 0
    student = jax.eval_shape(build.init_params(config, (2,)), jax.random.key(0))
    taught = start.planned_teacher(config, features)
    assert (taught is None) == (name == "scm")
    # A student, two moments and an average.
    arguments = 4 * size_of(student)
    if taught is not None:
        arguments += size_of(taught.params)
    assert costs["arguments"] == pytest.approx(arguments, rel=0.01)


def size_of(shapes):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def test_a_config_that_does_not_fit_is_shown_what_takes_less_memory(too_large):
    assert too_large["training"]["fits"] is False
    text = plan_table.table("tiny.py", too_large)
    assert "DOES NOT FIT: training" in text
    assert "DOES NOT FIT: sampling" in text
    for remedy in ("fsdp=8", "remat", "bfloat16", "batch_size", "--search"):
        assert remedy in text


def test_how_attention_is_computed_is_told(too_large):
    chosen = [
        {"queries": 4096, "keys": 4096, "implementation": "flash"},
        {"queries": 4096, "keys": 77, "implementation": "xla"},
        {"queries": 1024, "keys": 1024, "implementation": "flash"},
    ]
    training = too_large["training"] | {"attention": chosen}
    text = plan_table.table("tiny.py", too_large | {"training": training})
    assert (
        "The training step computes attention by flash for 4,096 x 4,096, 1,024 x 1,024; "
        "xla for 4,096 x 77 (queries x keys)."
    ) in text
    assert too_large["training"]["attention"] == []  # an mlp has none


def test_kernels_without_cycles_and_loops_are_listed(too_large):
    kernels = [
        {"name": "attention", "count": 28, "flops": 4e9, "bytes": 8e6},
        {"name": "sort", "count": 1, "flops": None, "bytes": 1e6},
        {"name": "concatenate", "count": 5, "flops": 0.0, "bytes": 1e3},
    ]
    training = {"kernels": kernels, "kernels_seconds": 0.25, "loops": (28, 28, None)}
    text = plan_table.table("tiny.py", too_large | {"training": too_large["training"] | training})
    assert "28 x attention (4 GFLOP, 8 MB), 1 x sort (operations not known, 1 MB)" in text
    assert "a lower bound where the operations are not known" in text
    assert "concatenate" not in text
    assert "The training step has 3 loops: 2 of 28 rounds." in text
    assert "Of its loops, 1 have a number of rounds that is not known; each counts once." in text
    row = next(line for line in text.splitlines() if line.startswith("kernels beside them"))
    assert "29 (250 ms)" in row


def test_remedies_are_those_that_the_config_has(tiny):
    found = plan_search.remedies(configs.load(tiny), 8)
    assert found == {
        "bfloat16": {"network.dtype": "bfloat16"},
        "fsdp": {"mesh.data": "-1", "mesh.fsdp": "8"},
        "accumulate": {"optim.accumulate": "2"},
        "half the batch": {"training.batch_size": "16"},
    }
    used = {
        "network.dtype": "bfloat16",
        "mesh.fsdp": "8",
        "training.batch_size": "8",
    }
    assert plan_search.remedies(configs.load(tiny, used), 8) == {}


def test_a_u_net_can_recompute_its_blocks():
    config = configs.load(VE / "cifar10_ncsnpp_continuous.py")
    assert plan_search.remedies(config, 16)["remat"] == {"network.remat": "blocks"}
    pointwise = {"network.remat": "pointwise"}
    assert plan_search.remedies(config, 16)["remat, pointwise"] == pointwise


def test_a_search_tries_each_remedy_and_all_together_and_the_fastest_that_fits_is_first(
    tiny, small
):
    def costs(config):  # as if only parts fitted, the more the slower
        parts = config.mesh.fsdp
        speed = config.training.batch_size * (2 if config.network.dtype == "bfloat16" else 1)
        return {"fits": parts == 8, "peak": 1000 // parts, "images_per_second": speed}

    tried = plan_search.fastest_first(plan_search.search(configs.load(tiny), small, costs))
    assert len(tried) == 4 + 3
    assert tried[0]["changes"] == {
        "network.dtype": "bfloat16",
        "mesh.data": "-1",
        "mesh.fsdp": "8",
    }
    assert [row["fits"] for row in tried] == [True] * 4 + [False] * 3


def test_a_search_is_printed_in_its_order(too_large):
    costs = {"estimate_seconds": 0.5, "peak": 10**9, "images_per_second": 64.0}
    tried = [
        {"changes": {"mesh.fsdp": "8"}, "fits": True, **costs},
        {"changes": {}, "fits": False, "reason": "no", "images_per_second": None},
    ]
    lines = plan_table.table("tiny.py", too_large | {"search": tried}).splitlines()
    assert lines[-2].split() == ["yes", "1", "GB", "500", "ms", "64", "--config.mesh.fsdp=8"]
    assert lines[-1].split() == ["no", "-", "-", "-", "(as", "it", "is)"]
