"""Configs: what a user types, and what is said when it is wrong."""

import runpy
import subprocess
import sys

import pytest
from conftest import ROOT

from rmdnet_jax.app.config import CONTROLS, bind, build, check, choose, default, parse, quick
from rmdnet_jax.errors import UserError
from rmdnet_jax.labels.noise import KINDS
from rmdnet_jax.methods import METHODS
from rmdnet_jax.relations.losses import EDGES

CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def load(name, arg=""):
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](arg)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configs_are_documented_complete_and_shrink(path):
    text = path.read_text()
    assert f"configs/{path.name}" in text.split('"""')[1], "the docstring gives the command"
    for arg in ("", "quick", "seed=3"):
        config = load(path.stem, arg)
        check(config)
        assert sorted(config) == sorted(default())
        assert config.is_locked
    assert load(path.stem, "seed=3").seed == 3
    small = load(path.stem, "quick")
    assert small.data.name == "digits"
    assert small.relation_modeling.epochs == small.relation_guided.epochs == 2


STUDIES = [path for path in CONFIGS if "def sweep(" in path.read_text()]


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_every_point_of_a_study_is_an_experiment(path):
    points = runpy.run_path(str(path))["sweep"]("root")
    get_config = runpy.run_path(str(path))["get_config"]
    for name, arg in [*points.items()][::7]:
        config = get_config(arg)
        check(config)
        assert not config.teacher or config.teacher.removeprefix("root/") in points, name


def sweep(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "sweep.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_a_sweep_prints_its_commands_and_says_what_is_wrong(tmp_path):
    done = sweep(
        "configs/digits_methods.py", "--workdir", "runs", "--match", "same/pair-ce-rmdnet-[01]"
    )
    places = ["runs/same/pair-ce-rmdnet-0", "runs/same/pair-ce-rmdnet-1"]
    assert [line.split()[-1] for line in done.stdout.splitlines()] == [
        *places,
        *(p.replace("same", "simclr/same") for p in places),
    ]
    for arguments, said in (
        (("configs/digits.py",), "has no sweep"),
        (("configs/absent.py",), "cannot be read"),
        (("configs/digits_methods.py", "--match", "("), "no regular expression"),
    ):
        done = sweep(*arguments, "--workdir", str(tmp_path))
        assert done.returncode == 2
        assert said in done.stderr.splitlines()[-1]


def test_a_sweep_names_the_point_that_cannot_run(tmp_path):
    config = tmp_path / "study.py"
    config.write_text(
        "from rmdnet_jax.app.config import default\ndef get_config(arg=''):\n    config = default()\n    config.noise.rate = float(arg)\n"
        "    return config\ndef sweep(root):\n    return {'high': '1.5'}\n"
    )
    done = sweep(str(config), "--workdir", str(tmp_path / "runs"), "--run")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("high: noise.rate must be")


def test_a_sweep_refuses_a_point_of_older_settings(tmp_path):
    config = tmp_path / "study.py"
    config.write_text(
        "from rmdnet_jax.app.config import default\ndef get_config(arg=''):\n    return default()\ndef sweep(root):\n    return {'a': ''}\n"
    )
    older = default()
    older.relation_guided.epochs = 9
    (tmp_path / "runs" / "a").mkdir(parents=True)
    for name, content in (("config", older.to_json()), ("summary", "{}")):
        (tmp_path / "runs" / "a" / f"{name}.json").write_text(content)
    done = sweep(str(config), "--workdir", str(tmp_path / "runs"), "--run")
    assert done.returncode == 2
    assert (
        "a run whose config differs (relation_guided.epochs is 9 there, 80 here)"
        in done.stderr.splitlines()[-1]
    )


def test_a_methods_settings_are_its_authors():
    """DivideMix's weight of unlabelled examples by noise, its warm-up within the small student's epochs; calibrated relation losses."""
    for name, arg, expected in (
        ("cifar10_sym", "rate=0.2", (10, 0.0, 0.0)), ("cifar10_sym", "rate=0.9", (10, 50.0, 0.0)), ("cifar10_asym", "", (10, 0.0, 1.0)),
        ("cifar100_sym", "rate=0.2", (30, 25.0, 0.0)), ("cifar100_sym", "rate=0.8", (30, 150.0, 0.0)),
        ("cifar100_sym", "small,rate=0.8", (10, 150.0, 0.0)), ("cifar100_sym", "rate=0.8,targets=propagated", (30, 0.0, 0.0)),
        ("digits", "", (10, 25.0, 0.0)), ("digits", "targets=propagated", (10, 0.0, 0.0)),
    ):  # fmt: skip
        config = load(name, f"method=dividemix,{arg}")
        method = config.relation_guided.method
        check(config)
        assert (
            method.warmup_epochs,
            method.unlabelled_weight,
            method.confidence_penalty,
        ) == expected, (name, arg)
    assert load("digits", "edge=pkt,node=infonce").relation_guided.edge.weight == 60000.0
    assert load("digits", "edge=softmax_kl").relation_guided.edge.weight == 1.0


def test_a_method_that_is_named_without_its_fields_is_refused():
    config = default()
    with config.unlocked():
        config.relation_guided.method.name = "dividemix"
    with pytest.raises(
        UserError, match=r"'dividemix' needs .*warmup_epochs.*: choose it by the config's argument"
    ):
        build(METHODS, "relation_guided.method", config.relation_guided.method, 4, 4)


def test_arguments_reach_the_config():
    config = load("cifar10_sym", "rate=0.2,method=ce,seed=7,inclusive")
    assert (config.noise.name, config.noise.rate, config.noise.inclusive, config.seed) == (
        "symmetric",
        0.2,
        True,
        7,
    )
    assert config.relation_guided.method.name == "ce"
    assert load("cifar10_human", "path=a.csv,field=aggre_label").noise.path == "a.csv"
    assert load("cifar10_asym", "small").data.limit > 0
    encoders = {
        "": "preact_resnet18",
        "encoder=resnet18": "resnet18",
        "small,encoder=resnet34": "resnet34",
        "quick,encoder=wrn28_2": "cnn",
    }
    assert {arg: load("cifar10_asym", arg).encoder.name for arg in encoders} == encoders
    own = load("cifar10_speedrun", "data=own.npz,method=dividemix,rate=0.9")
    assert (own.data.name, own.data.dir, own.relation_guided.method.unlabelled_weight) == (
        "npz",
        "own.npz",
        50.0,
    )
    assert load("digits", "noise=pair").noise.name == "pair"


def test_parse_types_values_by_their_defaults():
    found = parse("flag,count=3,rate=2,name=x", flag=False, other=True, count=1, rate=0.5, name="")
    assert vars(found) == {"flag": True, "other": True, "count": 3, "rate": 2.0, "name": "x"}
    assert parse("other=false", other=True).other is False
    assert vars(parse("", rate=0.5)) == {"rate": 0.5}


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("rtae=0.2", "did you mean rate"),
        ("rate=high", "rate must be of type float, got 'high'"),
        ("rate", "rate must be of type float, got ''"),
        ("quick=maybe", "quick must be true or false"),
        ("method=elrr", "^method must be one of the known names"),
        (
            "noise=symetric",
            "^noise must be one of the known names, got 'symetric': did you mean symmetric",
        ),
    ],
)
def test_wrong_arguments_are_refused(arg, message):
    with pytest.raises(UserError, match=message):
        load("digits", arg)


def test_choose_reads_the_signature_and_bind_gives_it_back():
    node = choose(KINDS, "symmetric", rate=0.2)
    assert node.to_dict() == {"name": "symmetric", "rate": 0.2, "inclusive": False}
    with pytest.raises(UserError, match="did you mean rate"):
        choose(KINDS, "symmetric", rat=0.2)
    edge = choose(EDGES, "softmax_kl", student_temperature=0.3)
    edge.weight = 2.0
    assert bind(EDGES, "edge", edge, beside=("weight",)).keywords == {
        "teacher_temperature": 0.04, "student_temperature": 0.3, "block": 0,
    }  # fmt: skip
    with pytest.raises(UserError, match="field"):
        build(EDGES, "edge", edge)


def test_a_misspelt_field_is_an_error():
    with pytest.raises((AttributeError, KeyError), match="weight"):
        default().relation_guided.wieght = 1.0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", -1, "seed must be in"),
        ("data.validation", 1.5, r"data\.validation must be in \[0\.0, 0\.9\], got 1\.5"),
        ("checkpoint_steps", 0, "checkpoint_steps must be >= 1"),
        ("relation_modeling.epochs", -1, r"relation_modeling\.epochs must be >= 0"),
        ("relation_modeling.knn.k", 0, r"relation_modeling\.knn\.k must be >= 1"),
        (
            "relation_modeling.knn.temperature",
            0.0,
            r"relation_modeling\.knn\.temperature must be > 0, got 0\.0",
        ),
        ("relation_guided.epochs", 0, r"relation_guided\.epochs must be >= 1"),
        ("relation_guided.weight", -1.0, r"relation_guided\.weight must be >= 0"),
        (
            "relation_guided.weight",
            float("nan"),
            r"relation_guided\.weight must be a finite number, got nan",
        ),
        ("relation_guided.edge.weight", -1.0, r"relation_guided\.edge\.weight must be >= 0"),
        ("relation_guided.average", 1.0, r"relation_guided\.average must be in"),
        ("relation_guided.init", "techer", "did you mean teacher"),
        ("relation_guided.teacher_features", "sored", "did you mean stored"),
        ("controls", ("bse",), "did you mean base"),
    ],
)
def test_values_that_cannot_be_are_refused(field, value, message):
    config = default()
    *path, last = field.split(".")
    node = config
    for part in path:
        node = node[part]
    node[last] = value
    with pytest.raises(UserError, match=message):
        check(config)


def test_quick_keeps_method_and_controls():
    config = default()
    config.controls = CONTROLS
    assert quick(config).controls == CONTROLS
    assert config.relation_guided.method.name == "ce"
