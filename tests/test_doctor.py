"""`rmdnet doctor` on machines that lack something: it says what, and never fails itself."""

import configparser
import json
import re

import pytest
from conftest import ROOT

from rmdnet_jax.app import doctor

HERE = {"platform": "cpu", "count": 3, "kinds": ["toy"]}


@pytest.fixture
def answer(monkeypatch):
    """The other process says at once what devices there are, without JAX."""
    monkeypatch.setattr(doctor, "DEVICES", f"print('a warning'); print('''{json.dumps(HERE)}''')")


def test_it_ends_with_its_verdict(answer, capsys):
    assert doctor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "all that a run needs is here"
    assert any(line.strip().startswith("3 x toy (JAX's platform cpu)") for line in lines)
    for name in (*doctor.CORE, *doctor.EXTRAS):
        assert sum(line.strip().startswith(f"{name} ") for line in lines) == 1, name


def test_json_says_the_same(answer, capsys):
    assert doctor.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found["devices"][name] for name in HERE} == HERE
    assert found == json.loads(json.dumps(doctor.examine()[0]))


def test_jax_itself_tells_its_devices():
    assert doctor.devices()[0]["platform"] == "cpu"


def test_a_run_needs_what_setup_cfg_asks_for():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n")
    names = {re.split("[><=;]", line)[0].strip() for line in lines if line and line[0] != "#"}
    assert set(doctor.CORE) - {"jaxlib"} == names
    extras = {extra for _, extra in doctor.EXTRAS.values()}
    assert extras <= set(setup["options.extras_require"])


@pytest.mark.parametrize("name", [*doctor.CORE, *doctor.EXTRAS])
def test_a_missing_package_is_told(answer, monkeypatch, capsys, name):
    module, there = doctor.IMPORTS.get(name, name.replace("-", "_")), doctor.there
    monkeypatch.setattr(doctor, "there", lambda asked: asked != module and there(asked))
    status = doctor.main([])
    printed = capsys.readouterr().out
    if name in doctor.CORE:
        assert status == 1
        assert f"missing: {name}: pip install '{name}'" in printed
        assert printed.splitlines()[-1] == "a run needs what is missing above"
    else:
        assert status == 0, "an extra is no need of every run"
        assert f"pip install 'rmdnet_jax[{doctor.EXTRAS[name][1]}]'" in printed


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import time; time.sleep(60)", "no answer within 0.5 s"),
        ("import os; os._exit(7)", "JAX ended with status 7"),
        ("raise RuntimeError('the driver is too old')", "RuntimeError: the driver is too old"),
        ("print('no JSON')", "JSONDecodeError"),
        ("", "IndexError"),
    ],
)
def test_devices_that_do_not_answer(monkeypatch, capsys, code, words):
    monkeypatch.setattr(doctor, "DEVICES", code)
    monkeypatch.setattr(doctor, "SECONDS", 0.5 if "sleep" in code else 60)
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    assert "missing: a device that JAX can use: " in printed
    assert words in printed


@pytest.mark.parametrize("section", doctor.SECTIONS)
def test_a_section_that_fails_is_one_line(answer, monkeypatch, capsys, section):
    def fail():
        raise OSError("the disk is gone\nand more")

    monkeypatch.setitem(doctor.SECTIONS, section, fail)
    doctor.main([])
    printed = capsys.readouterr().out
    assert f"{section}\n  OSError: the disk is gone\n" in printed


def test_prepared_data_sets_are_those_with_both_descriptions(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for place in ("cifar10/3.0.2", "cifar100_n/one/1.0.0", "half/1.0.0", "half.incomplete_X/1.0.0"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "dataset_info.json").write_text("{}")
        if "half" not in place:
            (tmp_path / place / "features.json").write_text("{}")
    found, _ = doctor.data()
    assert found["tfds"] == ["cifar10/3.0.2", "cifar100_n/one/1.0.0"]
    assert found["tfds_dir"] == str(tmp_path)


def test_caches_are_measured_and_tried(tmp_path, monkeypatch):
    base = tmp_path / "cache"
    monkeypatch.setenv("RMDNET_CACHE", str(base))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    assert doctor.caches()[0]["images"] == {"path": str(base), "mib": 0, "writable": True}
    assert not base.exists(), "it only looks"
    for name, mib in (("digits-1/images.npy", 2), ("compiled/a", 1), ("compiled/b", 3)):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(bytes(mib * 2**20))
    found, _ = doctor.caches()
    assert (found["images"]["mib"], found["programs"]["mib"]) == (2, 4)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RMDNET_CACHE", str(tmp_path / "file" / "cache"))
    assert not doctor.caches()[0]["images"]["writable"]


def test_a_gpu_that_jax_does_not_use_is_told(answer, monkeypatch, capsys):
    monkeypatch.setattr(doctor.pathlib.Path, "glob", lambda self, pattern: ["/dev/nvidia0"])
    found, lines = doctor.devices()
    assert "rmdnet_jax[cuda]" in found["advice"]
    assert found["advice"] in lines
