"""The launch files of experiments/pods, run against stand-ins for gcloud, srun and the training."""

import json
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import yaml

from sde_diffusion import cli
from sde_diffusion.config import schema as configs

PODS = Path(__file__).parents[2] / "experiments" / "pods"
ROOT = PODS.parents[1]


def program(folder, name, text):
    """An executable shell script of this name in the folder."""
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def call(script, *arguments, path, cwd=ROOT, **environment):
    environment = os.environ | environment | {"PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", str(PODS / script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=300,
    )


def understood(arguments):
    """The arguments of a command and the fields that it sets, as the command line reads them."""
    args, rest = cli._parser().parse_known_args(arguments)
    overrides = cli.read_overrides(rest)
    configs.load(ROOT / args.config, overrides)
    return args, overrides


def planned(readme, config):
    """The chips that the `plan` command of a README is for, and the fields that it sets."""
    text = (PODS / readme).read_text().replace("\\\n", " ").replace("$CONFIG", config)
    (command,) = re.findall(r"^sde-diffusion (plan .*)$", text, re.MULTILINE)
    args, overrides = understood(shlex.split(command))
    assert args.config == config
    return math.prod(map(int, args.topology.partition(":")[2].split("x"))), overrides


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class TestCloudTPU:
    """tpu.sh, with a gcloud that writes down its arguments."""

    @pytest.fixture
    def tpu(self, tmp_path):
        log, states = tmp_path / "calls", tmp_path / "states"
        keep = f"printf '%s\\0' \"$@\" end >> {log}"
        tell = f"case $* in *describe*) head -n 1 {states}; sed -i 1d {states} ;; esac"
        program(tmp_path, "gcloud", f"{keep}\n{tell}")

        def run(*arguments, said=(), cwd=ROOT, **environment):
            log.write_text("")
            states.write_text("".join(f"{state}\n" for state in said))
            environment |= {"SECONDS_BETWEEN_LOOKS": "0"}
            done = call("cloud_tpu/tpu.sh", *arguments, path=tmp_path, cwd=cwd, **environment)
            calls = log.read_text().split("\0end\0")[:-1]
            return done, [each.split("\0") for each in calls]

        return run

    @pytest.fixture
    def host(self, tmp_path):
        """A host's shell, and the folder of a training there that goes on until `end` is in it."""
        folder = tmp_path / "sde-diffusion"
        (folder / ".venv" / "bin").mkdir(parents=True)
        told = 'printf "%s\\0" "$JAX_COMPILATION_CACHE_DIR" "$@" > told'
        wait = "until [ -e end ]; do sleep 0.05; done; echo ended"
        program(folder / ".venv" / "bin", "sde-diffusion", f"{told}\n{wait}")

        def shell(asked):
            (command,) = [each for each in asked if each.startswith("--command=")]
            subprocess.run(
                ["bash", "-c", command.removeprefix("--command=")],
                check=True,
                capture_output=True,  # as over a connection, which ends when nobody holds them
                cwd=tmp_path,
                timeout=20,
            )

        yield shell, folder
        (folder / "end").touch()

    @pytest.fixture
    def trained(self, tpu, host):
        """What a training is started with: JAX's cache, and the words of its command."""
        shell, folder = host

        def run(*arguments, **environment):
            done, [asked] = tpu("train", *arguments, WORKDIR="gs://bucket/run", **environment)
            assert done.returncode == 0, done.stderr
            assert {"ssh", "--node=all", "--worker=all"} <= set(asked)
            shell(asked)
            told = folder / "told"
            wait_until(lambda: told.exists() and told.read_text())
            cache, *words = told.read_text().split("\0")[:-1]
            return cache, words

        return run

    def test_a_spot_tpu_is_asked_for(self, tpu):
        done, [asked] = tpu("create", NAME="mine", ZONE="us-west4-a", TYPE="v5litepod-16")
        assert done.returncode == 0, done.stderr
        assert asked[:5] == ["compute", "tpus", "queued-resources", "create", "mine"]
        flags = "--zone=us-west4-a --accelerator-type=v5litepod-16 --node-id=mine --spot"
        assert set(flags.split()) <= set(asked)

    def test_of_several_slices_each_is_a_node(self, tpu):
        _, [asked] = tpu("create", NAME="mine", SLICES="2")
        assert {"--node-count=2", "--node-prefix=mine"} <= set(asked)
        assert "--node-id=mine" not in asked

    @pytest.mark.parametrize(("last", "code"), [("ACTIVE", 0), ("FAILED", 1), ("SUSPENDED", 1)])
    def test_waiting_ends_when_the_tpu_is_there_or_will_not_come(self, tpu, last, code):
        done, asked = tpu("wait", said=["WAITING_FOR_RESOURCES", "PROVISIONING", last, "ACTIVE"])
        assert done.returncode == code
        assert len(asked) == 3

    def test_the_commit_and_the_data_go_to_every_host(self, tpu):
        done, [copy, install] = tpu("install", DATA="gs://bucket/data")
        assert done.returncode == 0, done.stderr
        assert "scp" in copy
        assert {"--node=all", "--worker=all"} <= set(copy) & set(install)
        (command,) = [each for each in install if each.startswith("--command=")]
        assert "gcloud storage cp --recursive 'gs://bucket/data' ." in command

    def test_a_commit_is_whole_from_whichever_folder_it_is_sent(self, tpu):
        done, [copy, _] = tpu("install", cwd=PODS / "cloud_tpu", DATA="gs://bucket/data")
        assert done.returncode == 0, done.stderr
        (archive,) = [each for each in copy if each.endswith(".tar.gz") and Path(each).is_file()]
        with tarfile.open(archive) as commit:
            names = commit.getnames()
        assert {"pyproject.toml", "sde_diffusion/__init__.py"} <= set(names)

    def test_every_host_trains_with_flags_that_the_command_line_knows(self, trained):
        _, words = trained("--config.mesh.slices=2")
        args, overrides = understood(words)
        assert args.workdir == "gs://bucket/run"
        assert overrides["mesh.slices"] == "2"

    def test_the_connection_ends_and_the_training_goes_on(self, trained, host):
        trained()
        log = host[1] / "train.log"
        assert log.read_text() == ""
        (host[1] / "end").touch()
        wait_until(lambda: log.read_text() == "ended\n")

    def test_a_flag_with_brackets_and_a_space_is_one_flag_on_the_host(self, trained):
        _, words = trained("--config.data.range=(0.0, 1.0)")
        assert words[-1] == "--config.data.range=(0.0, 1.0)"

    def test_what_is_planned_is_what_is_trained(self, tpu, trained):
        _, words = trained()
        args, overrides = understood(words)
        chips, plan = planned("cloud_tpu/README.md", args.config)
        assert overrides == plan == {"preset": "tpu"}
        _, [asked] = tpu("create")
        assert f"--accelerator-type=v5litepod-{chips}" in asked

    def test_a_flag_of_ones_own_comes_after_those_of_the_script(self, trained):
        _, words = trained("--config.mesh.fsdp=4")
        assert understood(words)[1]["mesh.fsdp"] == "4"

    def test_without_flags_the_config_is_trained_as_it_is(self, trained):
        _, words = trained(FLAGS="")
        assert understood(words)[1] == {}

    def test_a_new_tpu_finds_what_the_last_one_compiled(self, trained):
        cache, _ = trained()
        assert cache == "gs://bucket/run-cache"

    @pytest.mark.parametrize(("verb", "missing"), [("train", "WORKDIR"), ("install", "DATA")])
    def test_what_is_not_given_is_named_before_anything_is_done(self, tpu, verb, missing):
        done, asked = tpu(verb, **{missing: ""})
        assert done.returncode != 0
        assert missing in done.stderr.splitlines()[-1]
        assert not asked

    def test_the_queued_resource_goes_with_its_tpu(self, tpu):
        _, [asked] = tpu("delete", NAME="mine")
        assert asked[3:5] == ["delete", "mine"]
        assert {"--force", "--quiet"} <= set(asked)

    def test_an_unknown_verb_lists_the_verbs(self, tpu):
        done, asked = tpu("start")
        assert done.returncode == 2
        assert "create | wait | install | train | log | delete" in done.stderr
        assert not asked


# Fields and their types, of those of https://jobset.sigs.k8s.io/docs/reference that we use.
JOBSET = {"failurePolicy": dict, "replicatedJobs": list, "ttlSecondsAfterFinished": int}
REPLICATED_JOB = {"name": str, "replicas": int, "template": dict}
FAILURE_POLICY = {"maxRestarts": int, "rules": list}
FAILURE_RULE = {"name": str, "action": str, "onJobFailureReasons": list}
JOB = {
    "parallelism": int,
    "completions": int,
    "backoffLimit": int,
    "podFailurePolicy": dict,
    "template": dict,
}


class TestGKE:
    @pytest.fixture
    def jobset(self):
        return yaml.safe_load((PODS / "gke" / "jobset.yaml").read_text())

    @pytest.fixture
    def job(self, jobset):
        return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]

    @pytest.fixture
    def pod(self, job):
        return job["template"]["spec"]

    @pytest.fixture
    def train(self, pod):
        (container,) = pod["containers"]
        return container

    @pytest.fixture
    def command(self, train):
        script, *arguments = train["command"]
        assert f"gke/{script} " in (PODS / "gke" / "Dockerfile").read_text()
        return understood(["train", *arguments])

    def test_the_file_is_a_jobset(self, jobset):
        assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
        assert jobset["kind"] == "JobSet"
        (replicated,) = jobset["spec"]["replicatedJobs"]
        policy = jobset["spec"]["failurePolicy"]
        for part, fields in (
            (jobset["spec"], JOBSET),
            (policy, FAILURE_POLICY),
            *((rule, FAILURE_RULE) for rule in policy["rules"]),
            (replicated, REPLICATED_JOB),
            (replicated["template"]["spec"], JOB),
        ):
            assert {name: type(value) for name, value in part.items()} == fields

    def test_there_is_a_pod_for_each_host_of_the_slice(self, job, pod, train):
        rows, columns = map(
            int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
        )
        chips = train["resources"]["limits"]["google.com/tpu"]
        assert job["parallelism"] == job["completions"] == rows * columns // chips
        # A failed Pod fails the Job at once, and with it the JobSet starts anew.
        assert (pod["restartPolicy"], job["backoffLimit"]) == ("Never", 0)

    def test_its_command_is_one_that_the_command_line_knows(self, command):
        args, _ = command
        assert args.workdir.startswith("gs://")

    def test_what_is_planned_is_what_is_trained(self, pod, command):
        args, overrides = command
        chips, plan = planned("gke/README.md", args.config)
        assert overrides == plan == {"preset": "tpu"}
        topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
        assert chips == math.prod(map(int, topology.split("x")))

    def test_bad_input_and_a_loss_that_is_not_finite_are_not_started_again(
        self, jobset, job, train
    ):
        (rule,) = job["podFailurePolicy"]["rules"]
        assert rule == {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": train["name"],
                "operator": "In",
                "values": [cli.BAD_INPUT, cli.NON_FINITE],
            },
        }
        (rule,) = jobset["spec"]["failurePolicy"]["rules"]
        assert rule["action"] == "FailJobSet"
        assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]

    def test_a_host_waits_for_those_whose_nodes_come_later(self, command):
        args, _ = command
        assert args.join_timeout >= 3600

    def test_pods_have_an_identity_of_their_own(self, pod):
        assert pod["serviceAccountName"] == "sde-diffusion"
        # On the network of the host they would have the node's.
        assert "hostNetwork" not in pod

    def test_the_node_pool_gives_a_pod_its_time_to_save(self, pod):
        nodes = yaml.safe_load((PODS / "gke" / "nodes.yaml").read_text())["kubeletConfig"]
        assert nodes["shutdownGracePeriodSeconds"] in (30, 120)  # what GKE takes
        granted = (
            nodes["shutdownGracePeriodSeconds"] - nodes["shutdownGracePeriodCriticalPodsSeconds"]
        )
        assert pod["terminationGracePeriodSeconds"] <= granted
        readme = (PODS / "gke" / "README.md").read_text()
        assert "--system-config-from-file experiments/pods/gke/nodes.yaml" in readme

    def test_a_new_pod_finds_what_the_last_one_compiled(self, train, command):
        (variable,) = train["env"]
        assert variable["name"] == "JAX_COMPILATION_CACHE_DIR"
        assert variable["value"] == f"{command[0].workdir}-cache"

    @pytest.mark.parametrize("code", [0, 3])
    def test_a_pod_ends_as_the_training_does(self, tmp_path, code):
        program(tmp_path, "sde-diffusion", f"echo $@; exit {code}")
        done = call("gke/train.sh", "--config", "a b", path=tmp_path)
        assert (done.returncode, done.stdout) == (code, "train --config a b\n")

    def test_a_pod_that_is_told_to_go_lets_the_training_save_and_has_failed(self, tmp_path):
        program(
            tmp_path,
            "sde-diffusion",
            "trap 'sleep 1; echo saved; exit 0' TERM\necho ready; while :; do sleep 0.1; done",
        )
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        pod = subprocess.Popen(
            ["bash", str(PODS / "gke" / "train.sh")],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert pod.stdout.readline() == "ready\n"
        pod.send_signal(signal.SIGTERM)
        assert pod.communicate(timeout=30) == ("saved\n", None)
        assert pod.returncode == 143


class TestSlurm:
    SRUN = """
        while [[ $1 == --* ]]; do shift; done
        export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2
        SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
        SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & second=$!
        wait $first && wait $second
    """

    @pytest.mark.slow
    def test_its_tasks_train_together(self, tmp_path):
        program(tmp_path, "srun", self.SRUN)
        workdir = tmp_path / "run"
        size = ("batch_size=32", "steps=2", "steps_per_call=1", "log_every=1")
        done = call(
            "slurm/train.sbatch",
            "--config.network.features=16",
            "--config.network.num_blocks=1",
            "--config.mesh.data=2",
            "--config.optim.warmup=1",
            *(f"--config.training.{each}" for each in size),
            path=f"{tmp_path}:{Path(sys.executable).parent}",
            CONFIG="configs/digits.py",
            WORKDIR=str(workdir),
            SLURM_JOB_ID=str(_job_of_a_free_port()),
            SLURM_CPUS_PER_TASK="1",
            JAX_PLATFORMS="cpu",
            JAX_NUM_CPU_DEVICES="1",
            XDG_CACHE_HOME=str(tmp_path),
        )
        assert done.returncode == 0, done.stderr
        assert "2 cpu device" in done.stdout
        assert done.stdout.count("trained to step 2") == 1
        records = (workdir / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(record)["step"] for record in records] == [1, 2]

    def test_tasks_get_the_processors_that_the_job_has_for_them(self, tmp_path):
        program(tmp_path, "srun", 'printf "%s\\n" "$@"')
        given = {"CONFIG": "configs/digits.py", "WORKDIR": "run", "SLURM_CPUS_PER_TASK": "5"}
        done = call("slurm/train.sbatch", path=tmp_path, **given)
        assert done.returncode == 0, done.stderr
        words = done.stdout.splitlines()
        assert "--cpus-per-task=5" in words[: words.index("sde-diffusion")]

    @pytest.mark.parametrize(
        ("flags", "fields"), [({}, {"network.dtype": "bfloat16"}), ({"FLAGS": ""}, {})]
    )
    def test_it_computes_in_bfloat16_unless_told_otherwise(self, tmp_path, flags, fields):
        program(tmp_path, "srun", 'printf "%s\\n" "$@"')
        given = {"CONFIG": "configs/digits.py", "WORKDIR": "run", "SLURM_CPUS_PER_TASK": "5"}
        done = call("slurm/train.sbatch", path=tmp_path, **given, **flags)
        words = done.stdout.splitlines()
        assert understood(words[words.index("sde-diffusion") + 1 :])[1] == fields

    def test_without_a_folder_it_ends_before_anything_starts(self, tmp_path):
        program(tmp_path, "srun", "echo started")
        done = call("slurm/train.sbatch", path=tmp_path, CONFIG="configs/digits.py", WORKDIR="")
        assert done.returncode != 0
        assert "WORKDIR: the folder of the run" in done.stderr
        assert done.stdout == ""

    def test_it_asks_for_a_task_a_gpu_and_for_sigterm_before_the_end(self):
        text = (PODS / "slurm" / "train.sbatch").read_text()
        asked = dict(
            line.removeprefix("#SBATCH --").partition("=")[::2]
            for line in text.splitlines()
            if line.startswith("#SBATCH")
        )
        assert asked["gpus-per-node"] == asked["ntasks-per-node"]
        assert asked["signal"] == "TERM@120"


def _job_of_a_free_port():
    # JAX's coordinator listens at 61440 + the job's number, modulo 4096.
    while True:
        job = time.monotonic_ns() % 4096
        with socket.socket() as listener:
            if listener.connect_ex(("127.0.0.1", 61440 + job)):
                return job
