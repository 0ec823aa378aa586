"""The command as a user types it: mistakes are one line and exit status 2, before any work."""

import importlib.machinery
import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from conftest import ROOT, tiny
from ml_collections import ConfigDict
from PIL import Image

from rmdnet_jax import main
from rmdnet_jax.app import experiment, report, schema, workdir
from rmdnet_jax.app.command import _no_echo as no_echo
from rmdnet_jax.app.command import guarded, say, soon
from rmdnet_jax.app.load import get_config
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.training.stop import Stopped, at_once


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs the command in this process: (arguments) -> (exit status, lines on standard error)."""
    monkeypatch.chdir(ROOT)

    def run(*arguments, config="configs/digits.py:quick", workdir=None):
        place = str(workdir or tmp_path / "run")
        status = main.main(["rmdnet_jax", "--config", config, "--workdir", place, *arguments])
        return status, capsys.readouterr().err.splitlines()

    return run


def folder(root, *, empty=False, broken=False):
    for label in ("cat", "dog"):
        (root / "train" / label).mkdir(parents=True)
        for i in range(0 if empty and label == "dog" else 3):
            Image.fromarray(np.full((9, 9, 3), 40 * i, np.uint8)).save(
                root / "train" / label / f"{i}.png"
            )
    if broken:
        (root / "train" / "cat" / "1.png").write_bytes(b"no image")
    return root


MISTAKES = {
    "unknown data set": (
        ["--config.data.name=cifar1"],
        "data.name must be one of the known names, got 'cifar1': did you mean cifar10",
    ),
    "rate": (["--config.noise.rate=1.4"], "noise.rate must be in [0, 1], got 1.4"),
    "rate, value apart": (["--config.rate", "1.4"], "noise.rate must be in [0, 1], got 1.4"),
    "unknown field": (
        ["--config.noise.rat=0.4"],
        "unknown field 'noise.rat': did you mean noise.rate",
    ),
    "wrong type": (
        ["--config.relation_guided.epochs=many"],
        "relation_guided.epochs must be of type int, got 'many'",
    ),
    "unknown flag": (["--wrkdir=x"], "unrecognized arguments: --wrkdir=x"),
    "abbreviated flag": (["--work=x"], "unrecognized arguments: --work=x"),
    "stray argument": (["quickly"], "unrecognized arguments: quickly"),
    "no value": (["--config.seed"], "--config.seed needs a value, as in --config.seed=1"),
    "batch above data": (
        ["--config.relation_guided.batch_size=4096"],
        "relation_guided.batch_size must be in [2, 1442] (the training examples), got 4096",
    ),
    "batch and devices": (
        ["--config.relation_guided.batch_size=100"],
        "relation_guided.batch_size must be divisible by the 8 devices, got 100",
    ),
    "temperature": (
        ["--config.relation_guided.edge.student_temperature=0.0"],
        "relation_guided.edge.student_temperature must be > 0, got 0.0",
    ),
    "learning rate": (
        ["--config.relation_guided.optimizer.learning_rate=0.0"],
        "relation_guided.optimizer.learning_rate must be > 0, got 0.0",
    ),
    "a stage of its own": (
        ["--config.relation_modeling.optimizer.schedule=cosin"],
        "relation_modeling.optimizer.schedule must be",
    ),
    "kind without field": (
        ["--config.noise.name=none", "--config.rate=0.4"],
        "unknown field 'noise.rate'",
    ),
    "unknown method": (
        ["--config.relation_guided.method.name=elrr"],
        "relation_guided.method.name must be one of the known names, got 'elrr': did you mean elr",
    ),
    "a method's own range": (
        ["--config.method=gce", "--config.relation_guided.method.q=3"],
        "relation_guided.method.q must be in",
    ),
    "no teacher": (["--config.teacher=/nowhere"], "teacher must be the workdir of an earlier run"),
    "edge": (
        ["--config.relation_guided.edge.name=rkd"],
        "relation_guided.edge.name must be one of the known names, got 'rkd': did you mean rkd",
    ),
    "control": (["--config.controls=('bse',)"], "controls must be one of the known names"),
    "neighbours": (
        ["--config.targets=propagated", "--config.relation_guided.propagation.neighbours=0"],
        "relation_guided.propagation.neighbours must be",
    ),
    "network": (
        ["--config.encoder.widths=('a',)"],
        "encoder.widths must be one or more positive integers, got ('a',)",
    ),
    "epochs beyond 64 bits": (
        ["--config.modeling=99999999999999999999"],
        "relation_modeling.epochs must be below 2^31, got 99999999999999999999",
    ),
    "steps beyond 32 bits": (
        ["--config.epochs=1000000000"],
        f"relation_guided.epochs must be in [0, {(2**31 - 1) // (1442 // 64)}] with these batches",
    ),
    "a whole number beyond 32 bits": (
        ["--config.encoder.widths=(4,9999999999)"],
        "encoder.widths must be below 2^31, got 9999999999",
    ),
    "a number beyond float32": (
        ["--config.weight=1e39"],
        "relation_guided.weight must be a number that 32 bits hold, got 1e+39",
    ),
    "infinity as text": (
        ["--config.method=co_teaching", "--config.relation_guided.method.rate=inf"],
        "relation_guided.method.rate must be a finite number, got inf",
    ),
    "brackets without end": (["--config.encoder.widths=" + "(" * 9999], "encoder.widths must be"),
    "a bucket": (["--workdir=gs://bucket/run"], "workdir must be a local path, got 'gs://bucket"),
    "a user who is not there": (["--workdir=~nobodyknows/x"], "that home is not known"),
    "a variable that is not set": (["--workdir=$RMDNET_NOT_SET/x"], "$RMDNET_NOT_SET is not set"),
    "data in a bucket": (
        ["--config.data=npz", "--config.dir=gs://b/x.npz"],
        "data.dir must be a l",
    ),
    "a teacher in a bucket": (["--config.teacher=s3://b/x"], "teacher must be a local path"),
    "labels of a user who is not there": (
        ["--config.labels=~nobodyknows/x.csv"],
        "data.labels must be a path, got '~nobodyknows/x.csv': that home is not known",
    ),
    "network from Python": (["--config.encoder=custom"], "given from Python"),
}


@pytest.mark.parametrize(("arguments", "said"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line_before_any_work(arguments, said, command, tmp_path):
    status, lines = command(*arguments)
    assert status == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("rmdnet_jax: ")
    assert said in lines[0]
    assert not (tmp_path / "run").exists()


def test_mistakes_in_files_are_one_line(command, tmp_path):
    cases = [
        (
            "configs/image_folder.py",
            [f"--config.data.dir={folder(tmp_path / 'e', empty=True)}"],
            "dog",
        ),
        (
            "configs/image_folder.py",
            [f"--config.data.dir={folder(tmp_path / 'b', broken=True)}"],
            "1.png",
        ),
        ("configs/image_folder.py", [f"--config.data.dir={tmp_path / 'absent'}"], "absent"),
        ("configs/image_folder.py:data.name=npz,dir=absent.npz", [], "absent.npz"),
        ("configs/image_folder.py:data=absent.npz", [], "absent.npz"),
    ]
    for config, arguments, said in cases:
        status, lines = command(*arguments, config=config)
        assert (status, len(lines)) == (2, 1), lines
        assert said in lines[0]


def test_human_labels_of_the_wrong_length_are_refused(command, tmp_path):
    np.save(tmp_path / "short.npy", np.zeros(10, np.int64))
    config = tmp_path / "human.py"
    config.write_text(
        "import rmdnet_jax as rmd\n"
        "def get_config(arg=''):\n"
        "    return rmd.experiment(rmd.get_config('digits:quick'), arg, noise='file', "
        f"path={str(tmp_path / 'short.npy')!r})\n"
    )
    status, lines = command(config=str(config))
    assert (status, len(lines)) == (2, 1), lines
    assert "noise.path must hold 1442 labels, one for each training example, got 10" in lines[0]


def test_workdirs_that_cannot_serve_are_refused(command, tmp_path):
    (tmp_path / "file").write_text("something of the user's")
    status, lines = command(workdir=tmp_path / "file")
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("rmdnet_jax: workdir must be a directory, got the file")
    assert (tmp_path / "file").read_text() == "something of the user's"
    status, lines = command(workdir="/proc/nowhere/run")
    assert (status, len(lines)) == (2, 1)
    assert "cannot be written" in lines[0]


def test_a_workdir_of_another_config_is_refused_with_the_differing_fields(command, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    there = {**resolve(tiny(seed=5)).to_dict(), "given": {"config": "elsewhere"}}
    (run / "config.json").write_text(json.dumps(there))
    before = (run / "config.json").read_text()
    status, lines = command()
    assert (status, len(lines)) == (2, 1)
    assert "seed is 5 there, 0 here" in lines[0]
    assert "encoder.widths" in lines[0]
    assert "noise.rate" not in lines[0]
    assert "given" not in lines[0]
    assert (run / "config.json").read_text() == before
    assert [path.name for path in run.iterdir()] == ["config.json"]


def test_what_a_user_gave_may_differ_where_the_config_is_the_same(tmp_path):
    """A preset's name or its file, an argument or a flag, a default that is said or not."""
    here = {
        **resolve(get_config("digits:rate=0.2")).to_dict(),
        "given": {"config": "digits:rate=0.2", "overrides": {}},
    }
    (tmp_path / "config.json").write_text(json.dumps(here))
    for config in (
        get_config("digits", {"noise.rate": "0.2", "seed": 0}),
        get_config(str(ROOT / "configs" / "digits.py:rate=0.2")),
    ):
        workdir.check(tmp_path, resolve(config).to_dict())
    with pytest.raises(ValueError, match=r"noise\.rate is 0\.2 there, 0\.3 here"):
        workdir.check(tmp_path, resolve(get_config("digits:rate=0.3")).to_dict())


@pytest.mark.parametrize("text", ["[1]", "3", "null", "{", "{}", "\xff"])
@pytest.mark.parametrize("name", ["config", "data"])
def test_a_workdir_whose_files_tell_no_run_is_refused(command, tmp_path, name, text):
    config = {**resolve(get_config("digits:quick")).to_dict(), "given": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / f"{name}.json").write_bytes(text.encode("latin-1"))
    status, lines = command(workdir=tmp_path)
    assert (status, len(lines)) == (2, 1), lines
    assert f"{name}.json cannot be read (" in lines[0]
    assert lines[0].endswith("; choose another workdir")
    assert (tmp_path / f"{name}.json").read_bytes() == text.encode("latin-1")


def test_an_absent_config_file_and_a_broken_one_are_one_line(command, tmp_path):
    broken = ("configs/digits.py:rtae=0.2", "digts", "~nobodyknows/x.py", "gs://b/x.py")
    for config in ("configs/absent.py", *broken):
        status, lines = command(config=config)
        assert (status, len(lines)) == (2, 1), lines
        assert not (tmp_path / "run").exists()


BROKEN = {  # a config's file, and what is said
    "SystemExit": ("raise SystemExit(3)", "cannot be read: SystemExit: 3"),
    "SystemExit within": (
        "def get_config(arg):\n    raise SystemExit('no')",
        "failed: SystemExit: no",
    ),
    "no text": ("def get_config(arg):\n    return 3", "must return a ConfigDict, got 3"),
    "incomplete": (
        "from ml_collections import ConfigDict\n"
        "def get_config(arg): return ConfigDict({'seed': 3})",
        "must be like what get_config gives, got no field noise.name",
    ),
    "no choice": (
        "import rmdnet_jax as rmd\ndef get_config(arg):\n"
        "    config = rmd.get_config('digits')\n    config.encoder = None\n    return config",
        "must be like what get_config gives, got no field encoder.name",
    ),
    "no JSON": (
        "import rmdnet_jax as rmd\ndef get_config(arg):\n"
        "    config = rmd.get_config('digits')\n    config.encoder.widths = (object(),)\n"
        "    return config",
        "encoder.widths must be numbers and text, got <object",
    ),
}


@pytest.mark.parametrize("flag", ["--print_config", "--config.seed=1"])
@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN)
def test_a_config_that_is_broken_is_one_line(text, said, flag, command, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(text)
    status, lines = command(flag, config=str(path))
    assert (status, len(lines)) == (2, 1), lines
    assert said in lines[0]
    assert not (tmp_path / "run").exists()


def test_help_says_what_can_be_given(capsys):
    assert main.main(["rmdnet_jax", "--help"]) == 0
    said = capsys.readouterr().out
    flags = ("--config", "--workdir", "--print_config", "--multihost", "--config.field=value")
    assert all(flag in said for flag in flags)


def test_flags_are_required(capsys):
    for argv in ([], ["--config", "digits"], ["--workdir", "runs/demo"], ["--print_config"]):
        assert main.main(["rmdnet_jax", *argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "--config and --workdir are required" in line


# What is shown and kept of a config.


def test_print_config_shows_every_field_and_needs_no_workdir(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["x", "--config", "cifar100_sym:method=dividemix", "--config.rate=0.9"]
    assert main.main([*argv, "--print_config"]) == 0
    shown = json.loads(capsys.readouterr().out)
    config = resolve(get_config("cifar100_sym", {"method": "dividemix", "rate": 0.9}))
    assert shown == json.loads(json.dumps(config.to_dict()))
    assert shown["relation_guided"]["method"]["unlabelled_weight"] == 150.0
    assert resolve(ConfigDict(shown)) == config
    assert list(tmp_path.iterdir()) == []
    assert main.main([*argv, "--config.rate=1.4", "--config.seed=x", "--print_config"]) == 2


@pytest.fixture
def ran(monkeypatch):
    """The experiments that the command would have run: their config, workdir and `given`."""
    calls = []
    monkeypatch.setattr(
        experiment, "run", lambda config, workdir, *, given: calls.append((config, workdir, given))
    )
    return calls


def test_the_command_can_be_called_again_and_from_a_notebook(ran, monkeypatch, tmp_path):
    """It reads what it is given, not `sys.argv`, and keeps nothing between calls."""
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "/run/kernel.json"])
    argv = ["x", "--config", "digits:quick", "--workdir", str(tmp_path)]
    for flags in (["--config.rate=0.1"], ["--config.rate", "0.2", "--config.method=elr"], []):
        assert main.main([*argv, *flags]) == 0
    assert [config.noise.rate for config, *_ in ran] == [0.1, 0.2, 0.5]
    assert [config.relation_guided.method.name for config, *_ in ran] == ["ce", "elr", "ce"]
    assert [given["overrides"] for *_, given in ran] == [
        {"rate": "0.1"},
        {"rate": "0.2", "method": "elr"},
        {},
    ]


def test_a_later_flag_has_the_last_word(ran, tmp_path):
    flags = ["--config.rate=0.1", "--config.noise.rate=0.2", "--config.seed=1", "--config.seed=2"]
    assert main.main(["x", *flags, "--config=digits:rate=0.3", f"--workdir={tmp_path}"]) == 0
    assert (ran[0][0].noise.rate, ran[0][0].seed, ran[0][1]) == (0.2, 2, str(tmp_path))


def test_config_json_holds_the_resolved_config_and_what_was_given(command, tmp_path):
    fields = {
        "data.limit": "64", "modeling": "0", "epochs": "1", "controls": "()",
        "relation_modeling.batch_size": "16", "relation_guided.batch_size": "16", "weight": "0",
    }  # fmt: skip
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    assert command(*flags)[0] == 0
    there = json.loads((tmp_path / "run" / "config.json").read_text())
    given = there.pop("given")
    assert given == {"config": "configs/digits.py:quick", "overrides": fields}
    again = resolve(get_config(str(ROOT / given["config"]), given["overrides"]))
    assert there == json.loads(json.dumps(again.to_dict()))
    assert schema.flatten(there)["relation_guided.edge.weight"] == 1.0, "a default is there too"
    assert command(*flags)[0] == 0, "the run continues, to nothing left to do"
    config = "digits:quick," + ",".join(f"{name}={value}" for name, value in fields.items())
    assert command(config=config)[0] == 0, "the same config, given in another way"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["given"]["config"] == config


def test_a_cluster_that_is_not_there_is_one_line(command, tmp_path, monkeypatch):
    import jax

    def initialize():
        raise ValueError("coordinator_address should be defined.\nSee the manual.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    status, (line,) = command("--multihost")
    assert status == 2
    assert "--multihost needs a cluster" in line
    assert "coordinator_address should be defined. See the manual." in line
    assert not (tmp_path / "run").exists()


def test_ctrl_c_and_a_signal_have_their_status(command, monkeypatch):
    from rmdnet_jax.training.stop import Stopped

    again = "interrupted; the same command continues"
    for error, status, said in (
        (KeyboardInterrupt(), 130, again),
        (Stopped("saved at step 3", signal.SIGINT), 130, "saved at step 3"),
        (Stopped("saved at step 3", signal.SIGTERM), 143, "saved at step 3"),
        (Stopped("", signal.SIGHUP), 129, again),
    ):

        def stops(*_, error=error, **__):
            raise error

        monkeypatch.setattr(experiment, "run", stops)
        assert command() == (status, [f"rmdnet_jax: {said}"])


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (lambda: None, "x: loading\n"),
        (lambda: say("x", "no", 0), "x: no\n"),
        (lambda: report.say("data"), "data\n"),
    ],
)
def test_who_waits_for_a_second_is_told_for_what(ends, said, monkeypatch, capsys):
    monkeypatch.setattr("rmdnet_jax.app.command.PATIENCE", 0.05)

    def waits():
        soon("x", "another")
        soon("x", "loading")  # in place of that
        ends()
        time.sleep(1)  # and then it says no more

    assert guarded("x", waits) == 0
    soon("x", "done")
    assert guarded("x", lambda: None) == 0
    time.sleep(0.2)
    printed = capsys.readouterr()
    assert printed.err + printed.out == said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_in_any_phase(number, capsys):
    before = signal.getsignal(number)
    assert guarded("x", lambda: signal.raise_signal(number)) == 128 + number
    assert capsys.readouterr().err == "x: interrupted\n"
    assert signal.getsignal(number) == before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert guarded("x", lambda: signal.raise_signal(signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_systems_refusals_are_one_line(capsys):
    for error, said in (
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "a.npy"), "'a.npy': Permission denied"),
    ):

        def fails(error=error):
            raise error

        assert guarded("x", fails) == 2
        assert capsys.readouterr().err == f"x: {said}\n"


def shell_to(out, *arguments):
    command = [sys.executable, "-m", "rmdnet_jax.main", *arguments]
    pipe = subprocess.PIPE
    return subprocess.run(command, cwd=ROOT, env=os.environ, stdout=out, stderr=pipe, text=True)


def test_the_status_reaches_the_shell(tmp_path):
    flags = ["--config", "configs/digits.py", "--config.noise.rate=1.4", "--workdir", str(tmp_path)]
    run = shell_to(subprocess.DEVNULL, *flags)
    assert run.returncode == 2
    *before, last = run.stderr.splitlines()
    assert last == f"{main.NAME}: noise.rate must be in [0, 1], got 1.4"
    assert before in ([], [f"{main.NAME}: loading JAX and the data"])  # of a busy machine
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device here")
def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        run = shell_to(full, "--config", "digits:quick", "--print_config")
    assert (run.returncode, run.stderr.splitlines()[1:]) == (2, [])
    assert "No space left on device" in run.stderr


def test_closed_streams_and_letters_that_cannot_be_shown_are_no_error():
    """As a daemon starts a program, or a terminal of the C locale."""
    code = (
        "import sys\nfrom rmdnet_jax.app.command import guarded, say\n"
        "sys.exit(guarded('x', lambda: say('x', '\u2013', 0) or print('\u2013')))"
    )
    for closed in ("", ">&-", "2>&-", ">&- 2>&-"):
        command = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", code]
        env = {**os.environ, "PYTHONIOENCODING": "ascii"}
        run = subprocess.run(command, cwd=ROOT, capture_output=True, env=env)
        assert run.returncode == 0, run.stderr
        assert run.stdout == (b"" if closed.startswith(">") else b"\\u2013\n")


def test_a_reader_who_has_seen_enough_sees_no_traceback():
    """As `head` does, which closes the pipe."""
    line = f"{sys.executable} -m rmdnet_jax.main --config digits:quick --print_config | true"
    run = subprocess.run(
        ["sh", "-c", line], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == ("", "")


@pytest.mark.parametrize("times", [1, 3])
def test_a_signal_in_a_destructor_is_not_lost(times):
    """Python drops what is raised there, as in the callbacks of its garbage collection."""
    left, hook = [signal.SIGTERM] + [None] * (times - 1), sys.unraisablehook

    class Goes:
        def __del__(self):
            if left and (number := left.pop(0)):
                os.kill(os.getpid(), number)
            end = time.monotonic() + 0.1
            while time.monotonic() < end:  # signals are handled here
                pass

    def work():
        for _ in range(times):
            Goes()
        time.sleep(20)

    with pytest.raises(Stopped) as stopped, at_once():
        work()
    assert stopped.value.status == 143
    assert sys.unraisablehook is hook


def test_a_signal_while_a_native_module_is_loaded_is_a_stop(capsys):
    """Its loader makes an error of any exception, and drops what was raised."""

    def loads():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            failed = ImportError("Encountered an error while initializing the extension.")
        raise failed

    assert guarded("x", loads) == 143
    assert capsys.readouterr().err == "x: interrupted\n"


def test_a_signal_waits_until_a_native_module_is_loaded():
    """What is raised while jaxlib is set up aborts the process."""
    whole = []

    class Loader(importlib.machinery.ExtensionFileLoader):
        def exec_module(self, module):
            signal.raise_signal(signal.SIGTERM)
            whole.append(module)

    def work():
        Loader("x", "x.so").exec_module("x")
        time.sleep(20)

    with pytest.raises(Stopped) as stopped, at_once():
        work()
    assert stopped.value.status == 143
    assert whole == ["x"]


PENDING = """
async def reads():
    try:
        await pause()
    finally:
        raise ValueError("pages of text")
"""


@pytest.mark.parametrize(("file", "told"), [("site-packages/orbax/x.py", False), ("x.py", True)])
def test_what_is_left_of_a_failed_checkpoint_is_not_told_again(file, told, monkeypatch, capsys):
    @types.coroutine
    def pause():
        yield

    there = {"pause": pause}
    exec(compile(PENDING, file, "exec"), there)
    reads = there["reads"]()
    reads.send(None)
    monkeypatch.setattr(sys, "unraisablehook", no_echo)
    del reads
    assert ("pages of text" in capsys.readouterr().err) == told
