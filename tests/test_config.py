"""Configs: one language for all places where a value is set, and what is said when it is wrong."""

import itertools
import json
import re
import runpy
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, tiny
from ml_collections import ConfigDict

import rmdnet_jax as rmd
from rmdnet_jax import cli, main
from rmdnet_jax.app import schema, sweep
from rmdnet_jax.app.arms import NAMES
from rmdnet_jax.app.load import get_config, presets
from rmdnet_jax.app.overrides import override, split, typed
from rmdnet_jax.app.presets import cifar, digits
from rmdnet_jax.app.resolve import RECIPES, WEIGHTS, bound, build, check, resolve
from rmdnet_jax.errors import UserError
from rmdnet_jax.types import hyper

CONFIGS = sorted((ROOT / "configs").glob("*.py"))
STUDIES = sorted((ROOT / "studies").glob("*.py"))


def load(name, arg="", **overrides):
    """A preset with an argument and overrides, resolved."""
    return resolve(get_config(f"{name}:{arg}", overrides))


def at(config, path):
    return schema.at(config, schema.SHORT.get(path, path))


def leaves(tree):
    """Every value of a config, with its type."""
    return {name: (type(v), v) for name, v in schema.flatten(tree.to_dict()).items()}


# The experiments that come with the package.


def document(path):
    return path.read_text().split('"""')[1]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configs_are_documented_complete_and_shrink(path):
    commands = re.findall(r"rmdnet train --config (\S+) --workdir \S+", document(path))
    assert commands, "the docstring gives the command"
    for command in commands:
        name, _, arg = command.partition(":")
        assert name in (path.stem, f"configs/{path.name}")
        resolve(get_config(f"{path}:{arg}"))
    for arg in ("", "quick", "seed=3"):
        config = load(path.stem, arg)
        check(config)
        assert sorted(config) == sorted(schema.digits())
        assert config.is_locked
    assert load(path.stem, "seed=3").seed == 3
    small = load(path.stem, "quick")
    assert small.data.name == "digits"
    assert max(small.relation_modeling.epochs, small.relation_guided.epochs) <= 3


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_preset_by_name_is_its_file(path):
    assert get_config(f"{path.stem}:seed=3") == get_config(f"{path}:seed=3")
    assert presets()[path.stem] == path


@pytest.mark.parametrize("arg", ["", "quick", "method=dividemix,ssl=byol,edge=pkt"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_resolved_config_resolves_to_itself_and_survives_json(path, arg):
    config = load(path.stem, arg)
    assert leaves(resolve(config)) == leaves(config)
    again = resolve(ConfigDict(json.loads(json.dumps(config.to_dict()))))
    assert leaves(again) == leaves(config), "tuples too, which JSON does not have"


def test_resolving_changes_no_argument():
    config = get_config("digits", {"method": "elr"})
    before = config.to_dict()
    assert resolve(config).to_dict() != before
    assert config.to_dict() == before
    assert override(config, {"seed": 5}).seed == 5
    assert config.to_dict() == before


def test_every_entry_of_every_table_can_be_chosen():
    for path, table in schema.TABLES.items():
        for name in table:
            chosen = schema.at(resolve(override(digits(), {f"{path}.name": name})), path)
            own = {"name": name} | hyper(table[name]) | schema.BESIDE.get(path, {})
            assert sorted(chosen) == sorted(own), f"{path} {name}"
            assert chosen.name == name


# Values that depend on others.


def test_a_methods_settings_are_its_authors():
    """DivideMix's weight of unlabelled examples by noise, its warm-up within short trainings."""
    for name, arg, expected in (
        ("cifar10_sym", "rate=0.2", (10, 0.0, 0.0)),
        ("cifar10_sym", "rate=0.9", (10, 50.0, 0.0)),
        ("cifar10_asym", "", (10, 0.0, 1.0)),
        ("cifar100_sym", "rate=0.2", (30, 25.0, 0.0)),
        ("cifar100_sym", "rate=0.8", (30, 150.0, 0.0)),
        ("cifar100_sym", "small,rate=0.8", (10, 150.0, 0.0)),
        ("cifar100_sym", "rate=0.8,targets=propagated", (30, 0.0, 0.0)),
        ("digits", "", (10, 25.0, 0.0)),
        ("digits", "targets=propagated", (10, 0.0, 0.0)),
    ):
        config = load(name, f"method=dividemix,{arg}")
        method = config.relation_guided.method
        check(config)
        assert (
            method.warmup_epochs,
            method.unlabelled_weight,
            method.confidence_penalty,
        ) == expected, (name, arg)
    assert load("digits", "edge=softmax_kl").relation_guided.edge.weight == 1.0


def unlabelled(rate):
    """DivideMix's lambda_u on CIFAR-10 with symmetric noise, of its authors' table."""
    return 50.0 if rate > 0.85 else 25.0 if rate > 0.35 else 0.0


# What is set -> what else follows.
FOLLOWS = [
    *(
        ("cifar10_sym", {"method": "dividemix", "rate": rate},
         {"relation_guided.method.unlabelled_weight": unlabelled(rate), "rate": rate})
        for rate in (0.2, 0.5, 0.9)
    ),
    ("digits", {"seed": 3}, {"seed": 3, "noise.seed": 3}),
    ("digits", {"seed": 3, "noise.seed": 7}, {"seed": 3, "noise.seed": 7}),
    ("digits", {"noise.seed": 7}, {"seed": 0, "noise.seed": 7}),
    ("digits", {"noise": "pair", "seed": 3}, {"noise.seed": 3, "rate": 0.4}),
    *(
        ("digits" if data == "digits" else f"{data}_sym", {"relation_guided.method.name": method},
         {f"relation_guided.method.{key}": value for key, value in recipe.items()})
        for (data, method), recipe in RECIPES.items()
    ),
    ("cifar100_sym", {"relation_guided.method.name": "elr"},
     {"relation_guided.method.weight": 7.0, "relation_guided.method.momentum": 0.9}),
    ("digits", {"method": "jocor"}, {"relation_guided.method.ramp_epochs": 80.0}),
    ("cifar10_sym", {"method": "jocor"}, {"relation_guided.method.ramp_epochs": 10.0}),
    ("cifar10_sym", {"method": "elr"},
     {"relation_guided.method.weight": 3.0, "relation_guided.method.momentum": 0.7}),
    ("cifar100_sym", {"method": "elr", "relation_guided.method.momentum": 0.8},
     {"relation_guided.method.weight": 7.0, "relation_guided.method.momentum": 0.8}),
    *(
        ("digits", {part: name}, {f"relation_guided.{part}.weight": WEIGHTS.get(name, 1.0)})
        for part in ("edge", "node") for name in schema.TABLES[f"relation_guided.{part}"]
    ),
    ("digits", {"edge": "pkt", "node": "infonce", "relation_guided.edge.weight": 2.0},
     {"relation_guided.edge.weight": 2.0, "relation_guided.node.weight": 0.6}),
    ("digits", {"edge": "pkt"}, {"relation_guided.edge.weight": 60000.0}),
    ("cifar10_asym", {}, {"noise.mapping": "cifar10"}),
    ("cifar100_asym", {}, {"noise.mapping": "cifar100"}),
    ("digits", {"noise": "asymmetric"}, {"noise.mapping": "pair"}),
    ("cifar10_asym", {"noise.mapping": "pair"}, {"noise.mapping": "pair"}),
    # Heads stay as wide as the preset made them for its encoder; else they are their objective's.
    *(
        ("digits", {"ssl": name},
         {"relation_modeling.ssl.projection": 128, "relation_modeling.ssl.hidden": 64})
        for name in schema.TABLES["relation_modeling.ssl"]
    ),
    *(
        ("cifar10_sym", {"ssl": name},
         {f"relation_modeling.ssl.{key}": value for key, value in hyper(entry).items()})
        for name, entry in schema.TABLES["relation_modeling.ssl"].items()
    ),
    ("digits", {"ssl": "byol", "relation_modeling.ssl.hidden": 9},
     {"relation_modeling.ssl.projection": 128, "relation_modeling.ssl.hidden": 9}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "values", "expected"), FOLLOWS, ids=[f"{p} {v}" for p, v, _ in FOLLOWS]
)
def test_values_that_depend_on_others_follow_wherever_those_are_set(preset, values, expected):
    """In the argument after the colon, as flags and in Python, and in any order."""
    text = ",".join(f"{name}={value}" for name, value in values.items())
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    args, overrides = main.read(["--config", preset, "--workdir", "w", *flags])
    ways = [get_config(f"{preset}:{text}"), get_config(args.config, overrides)]
    ways += [get_config(preset, dict(items)) for items in itertools.permutations(values.items())]
    done = [resolve(way) for way in ways]
    assert all(leaves(one) == leaves(done[0]) for one in done)
    assert {name: at(done[0], name) for name in expected} == expected


def test_the_order_of_overrides_does_not_matter():
    values = {
        "relation_guided.method.alpha": 2.0,
        "method": "dividemix",
        "rate": 0.9,
        "noise": "symmetric",
        "encoder.widths": (4, 8),
        "encoder": "cnn",
        "seed": 3,
    }
    found = [
        resolve(get_config("cifar10_asym", dict(items)))
        for items in itertools.islice(itertools.permutations(values.items()), 0, None, 311)
    ]
    assert found[0].encoder.widths == (4, 8)
    assert found[0].relation_guided.method.alpha == 2.0
    assert all(leaves(config) == leaves(found[0]) for config in found)


def test_a_new_choice_begins_with_its_own_defaults():
    """Nothing is carried over from another choice, even where a field has the same name."""
    config = override(digits(), {"method": "elr", "relation_guided.method.weight": 9.0})
    assert resolve(config).relation_guided.method.weight == 9.0
    there = override(config, {"method": "elr"})
    assert resolve(there).relation_guided.method.weight == 9.0, "the same choice: nothing is new"
    config = override(override(config, {"method": "ce"}), {"method": "elr"})
    assert resolve(config).relation_guided.method.weight == 3.0
    noisy = override(override(digits(), {"rate": 0.1}), {"noise": "pair"})
    assert resolve(noisy).noise.to_dict() == {"name": "pair", "rate": 0.4, "seed": 0}


def test_auto_gives_a_field_back_to_what_it_depends_on():
    config = override(digits(), {"noise.seed": 7})
    assert load("digits", "", **{"noise.seed": "auto", "seed": 3}).noise.seed == 3
    assert resolve(override(config, {"noise.seed": "auto"})).noise.seed == 0
    assert (
        load("digits", "relation_guided.propagation.alpha=0.5").relation_guided.propagation.alpha
        == 0.5
    )
    word = load("digits", "method=jocor").relation_guided.method.rate
    assert word == "estimate"
    assert (
        load("digits", "method=jocor,relation_guided.method.rate=0.3").relation_guided.method.rate
        == 0.3
    )


@pytest.mark.parametrize(
    ("rate", "weight"), [("mixture", 50.0), ("graph", 25.0), (0.2, 0.0), (0.5, 25.0), (0.9, 50.0)]
)
def test_the_weight_of_unlabelled_examples_follows_the_rate_that_is_used(rate, weight):
    """The noise is of 90 %, which only its authors' way is told; a graph's is not known yet."""
    values = {"method": "dividemix", "noise.rate": 0.9, "relation_guided.method.rate": rate}
    config = resolve(override(get_config("cifar10_sym"), values))
    assert config.relation_guided.method.unlabelled_weight == weight
    assert resolve(config) == config


# What a user types.


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
        "small": "cnn",
        "quick": "cnn",
        "quick,encoder=wrn28_2": "wrn28_2",  # what is given has the last word
        "encoder=wrn28_2,quick": "wrn28_2",
    }
    assert {arg: load("cifar10_asym", arg).encoder.name for arg in encoders} == encoders
    own = load("cifar10_speedrun", "data=own.npz,method=dividemix,rate=0.9")
    assert (own.data.name, own.data.dir) == ("npz", "own.npz")
    assert load("digits", "noise=pair").noise.name == "pair"


def test_data_is_a_file_a_folder_or_a_name(tmp_path):
    for value, expected in (
        ("x.npz", ("npz", "x.npz")),
        (f"{tmp_path}/y.npz", ("npz", f"{tmp_path}/y.npz")),
        (str(tmp_path), ("folder", str(tmp_path))),
        ("cifar10", ("cifar10", "")),
    ):
        for config in (load("digits", f"data={value}"), load("digits", data=value)):
            assert (config.data.name, config.data.dir) == expected
    assert load("digits", "", data=tmp_path / "z.npz").data.name == "npz", "a path of Python's"


@pytest.mark.parametrize("short", schema.SHORT)
def test_short_names_are_those_of_fields(short):
    config = override(digits(), {"noise": "file" if short in ("path", "field") else "symmetric"})
    path = schema.SHORT[short]
    value = at(resolve(config), path)
    one, two = (override(config, {name: value}) for name in (short, path))
    assert one == two
    assert at(one, path) == value


def test_split_leaves_commas_within_brackets_and_quotes():
    for text, expected in (
        ("", {}),
        ("a=1,b=(2, 3),c", {"a": "1", "b": "(2, 3)", "c": "true"}),
        ("controls=('base','teacher_knn'),x=1", {"controls": "('base','teacher_knn')", "x": "1"}),
        ("rows=((1,0),(0,1))", {"rows": "((1,0),(0,1))"}),
        ("path='a,b.csv'", {"path": "'a,b.csv'"}),
        (" a = 1 , b ", {"a": "1", "b": "true"}),
        ("path=a=b.csv,", {"path": "a=b.csv"}),
        ("field=", {"field": ""}),
    ):
        assert split(text) == expected, text
    config = load("digits", "controls=('base','teacher_knn'),encoder.widths=(4,8)")
    assert config.controls == ("base", "teacher_knn")
    assert config.encoder.widths == (4, 8)


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        ("true", False, True),
        ("False", True, False),
        ("3", 1, 3),
        ("2", 0.5, 2.0),
        ("1e-3", 0.5, 1e-3),
        ("x", "", "x"),
        ("3", "", "3"),
        ("(1, 2)", (), (1, 2)),
        ("[1, 2]", (), (1, 2)),
        ("7", (), (7,)),
        ("'base',", (), ("base",)),
        ("0.3", "estimate", 0.3),
        ("20", "auto", 20),
        ("auto", "auto", "auto"),
        (2, 0.5, 2.0),
        ([[1, 0], [0, 1]], (), ((1, 0), (0, 1))),
        (0.3, "estimate", 0.3),
    ],
)
def test_values_take_the_type_of_what_they_replace(value, default, expected):
    found = typed("x", value, default)
    assert found == expected
    assert type(found) is type(expected)


def test_numbers_of_numpy_are_numbers():
    import numpy as np

    config = override(digits(), {"seed": np.int64(3), "rate": np.float32(0.5)})
    assert (type(config.seed), type(config.noise.rate)) == (int, float)
    json.dumps(resolve(config).to_dict())


@pytest.mark.parametrize(
    ("value", "default", "kind"),
    [
        ("yes", False, "bool"),
        ("3.5", 1, "int"),
        ("many", 1, "int"),
        ("", 0.5, "float"),
        ("true", 0.5, "float"),
        (True, 1, "int"),
        (1, False, "bool"),
        (3.5, 1, "int"),
        (3, "", "str"),
        ("b ase", (), "tuple"),
        (None, 0.5, "float"),
        ({"a": 1}, (), "tuple"),
    ],
)
def test_values_of_another_type_are_refused(value, default, kind):
    with pytest.raises(UserError) as refused:
        typed("a.field", value, default)
    assert str(refused.value) == f"a.field must be of type {kind}, got {value!r}"


KNOWN = "must be one of the known names, got"
WRONG = [
    ("rtae=0.2", "unknown field 'rtae': did you mean rate"),
    ("rate=high", "noise.rate must be of type float, got 'high'"),
    ("rate", "noise.rate must be of type float, got 'true'"),
    ("quick=maybe", "quick must be true or false, got 'maybe'"),
    ("method=elrr", f"relation_guided.method.name {KNOWN} 'elrr': did you mean elr"),
    ("noise=symetric", f"noise.name {KNOWN} 'symetric': did you mean symmetric"),
    ("noise.rat=0.4", "unknown field 'noise.rat': did you mean noise.rate"),
    ("noise=none,rate=0.4", "unknown field 'noise.rate': "),
    (
        "relation_guided.wieght=1",
        "unknown field 'relation_guided.wieght': did you mean relation_guided.weight",
    ),
    (
        "relation_guided.edge.weigth=1",
        "unknown field 'relation_guided.edge.weigth': did you mean relation_guided.edge.weight",
    ),
    ("relation_guided=1", "unknown field 'relation_guided': "),
    ("relation_guided.method.weight=1", "unknown field 'relation_guided.method.weight': "),
    ("data.limit.x=1", "unknown field 'data.limit.x': did you mean data.limit"),
    ("seed.x=1", "unknown field 'seed.x'"),
    ("epochs=2.5", "relation_guided.epochs must be of type int, got '2.5'"),
    ("controls=bse", "controls must be one of the known names, got 'bse': did you mean base"),
    ("controls=('bse',)", f"controls {KNOWN} 'bse': did you mean base"),
]


@pytest.mark.parametrize(("arg", "message"), WRONG, ids=[arg for arg, _ in WRONG])
def test_wrong_arguments_are_one_line_with_the_nearest_name(arg, message):
    with pytest.raises(UserError) as refused:
        load("digits", arg)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    if not arg.startswith("quick"):  # a size is no field
        with pytest.raises(UserError) as likewise:
            load("digits", "", **split(arg))
        assert str(likewise.value) == str(refused.value)


def test_what_python_sets_is_refused_when_it_is_resolved():
    """A config that a program changed itself, past `override`."""
    for path, value, message in (
        ("relation_guided.method.name", "elrr", "did you mean elr"),
        ("noise.rat", 0.2, "did you mean rate"),
        ("relation_guided.epochs", 2.5, "relation_guided.epochs must be of type int, got 2.5"),
        ("noise.rate", "high", "noise.rate must be of type float, got 'high'"),
    ):
        config = digits()
        schema.put(config, path, value)
        with pytest.raises(UserError, match=message):
            resolve(config)
    config = ConfigDict({**digits().to_dict(), "wieght": 1})
    with pytest.raises(UserError, match="unknown field 'wieght'"):
        resolve(config)


def test_a_choices_fields_are_its_entrys_keywords_and_build_gives_them_back():
    node = resolve(override(digits(), {"rate": 0.2})).noise
    assert node.to_dict() == {"name": "symmetric", "rate": 0.2, "inclusive": False, "seed": 0}
    config = load(
        "digits", "relation_guided.edge.student_temperature=0.3,relation_guided.edge.weight=2"
    )
    edge = bound("relation_guided.edge", config)
    assert edge.keywords == {
        "teacher_temperature": 0.04, "student_temperature": 0.3, "block": "auto",
    }  # fmt: skip
    assert edge.func is schema.TABLES["relation_guided.edge"]["softmax_kl"]
    config = load("digits", "method=gce,relation_guided.method.q=3")
    with pytest.raises(UserError, match=r"^relation_guided\.method\.q must be in .*, got 3\.0"):
        build("relation_guided.method", config, 4, 4)


@pytest.mark.parametrize("config", [digits(), cifar("cifar10"), tiny(), load("digits")])
def test_a_misspelt_field_is_an_error(config):
    with pytest.raises((AttributeError, KeyError), match="weight"):
        config.relation_guided.wieght = 1.0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", -1, r"^seed must be in"),
        ("noise.seed", -1, r"^noise\.seed must be in"),
        ("data.validation", 1.5, r"^data\.validation must be in \[0, 0\.9\], got 1\.5"),
        ("checkpoint_steps", 0, r"^checkpoint_steps must be >= 1"),
        ("relation_modeling.epochs", -1, r"^relation_modeling\.epochs must be >= 0"),
        ("relation_modeling.knn.k", 0, r"^relation_modeling\.knn\.k must be >= 1"),
        (
            "relation_modeling.knn.temperature",
            0.0,
            r"^relation_modeling\.knn\.temperature must be > 0, got 0\.0",
        ),
        ("relation_modeling.evaluate_every", 0, r"^relation_modeling\.evaluate_every must be >= 1"),
        ("relation_guided.epochs", -1, r"^relation_guided\.epochs must be >= 0"),
        ("relation_guided.weight", -1.0, r"^relation_guided\.weight must be >= 0"),
        (
            "relation_guided.weight",
            float("nan"),
            r"^relation_guided\.weight must be a finite number, got nan",
        ),
        (
            "relation_guided.optimizer.learning_rate",
            float("inf"),
            r"^relation_guided\.optimizer\.learning_rate must be a finite number, got inf",
        ),
        ("relation_guided.edge.weight", -1.0, r"^relation_guided\.edge\.weight must be >= 0"),
        ("relation_guided.average", 1.0, r"^relation_guided\.average must be in"),
        ("relation_guided.propagation.mix", 1.5, r"^relation_guided\.propagation\.mix must be in"),
        ("relation_guided.init", "techer", "did you mean teacher"),
        ("relation_guided.targets", "propagate", "did you mean propagated"),
        ("relation_guided.teacher_features", "sored", "did you mean stored"),
        ("relation_guided.propagation.in_doubt", "kep", "did you mean keep"),
        ("controls", ("bse",), "did you mean base"),
    ],
)
def test_values_that_cannot_be_are_refused(field, value, message):
    with pytest.raises(UserError, match=message):
        resolve(override(digits(), {field: value}))
    config = digits()  # and when a program puts it there
    schema.put(config, field, value)
    with pytest.raises(UserError, match=message):
        resolve(config)


def test_values_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match=r"warmup_epochs must be below relation_guided\.epochs, 5"):
        load("digits", "method=dividemix,epochs=5,relation_guided.method.warmup_epochs=5")
    with pytest.raises(UserError, match=r"relation_guided\.weight must be > 0 for the control"):
        load("digits", "weight=0,controls=('rmdnet',)")
    with pytest.raises(UserError, match=r"teacher_crops must be 0 where .*, got 4 with crop_flip"):
        load("digits", "teacher_crops=4,relation_modeling.augmentation.name=crop_flip")


def test_quick_keeps_method_and_controls():
    config = load("digits", f"quick,method=elr,controls={NAMES}")
    assert config.controls == NAMES
    assert config.relation_guided.method.name == "elr"


# Configs of the user's own.

OWN = """
import jax.numpy as jnp
import rmdnet_jax as rmd
from rmdnet_jax.methods import METHODS

def mine(n, classes, *, sharpness: float = 2.0):
    return METHODS["ce"](n, classes)

METHODS["mine"] = mine

def get_config(arg=""):
    return rmd.experiment(rmd.get_config("digits"), arg, method="mine", rate=0.3)
"""


def test_a_config_from_elsewhere_may_bring_a_method(tmp_path, monkeypatch):
    from rmdnet_jax.methods import METHODS

    monkeypatch.setitem(METHODS, "mine", None)  # so that it is gone afterwards
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    config = resolve(rmd.get_config("own.py:quick,relation_guided.method.sharpness=3"))
    assert config.relation_guided.method.to_dict() == {"name": "mine", "sharpness": 3.0}
    assert config.noise.rate == 0.3
    assert build("relation_guided.method", config, 4, 4).views == 1
    with pytest.raises(UserError, match=r"did you mean relation_guided\.method\.sharpness"):
        rmd.get_config("own.py:relation_guided.method.sharpnes=3")
    with pytest.raises(UserError, match="did you mean mine"):
        rmd.get_config("own.py:method=mne")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise RuntimeError('no\\nsuch thing')", "cannot be read: RuntimeError: no"),
        ("def get_config(arg=''):\n    return 1 / 0", "failed: ZeroDivisionError: division by"),
        ("def get_config(arg=''):\n    return {'a': 1}", "must return a ConfigDict, got {'a': 1}"),
        ("config = 1", "must define get_config(arg)"),
        ("def get_config(:", "cannot be read: SyntaxError"),
        ("import no_such_package", "cannot be read: ModuleNotFoundError: No module named"),
    ],
)
def test_a_config_that_fails_is_one_line(text, said, tmp_path, capsys):
    path = tmp_path / "broken.py"
    path.write_text(text + "\n")
    assert main.main(["x", "--config", str(path), "--workdir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"x: config {str(path)!r}")
    assert said in line
    assert not (tmp_path / "run").exists()


def test_a_config_that_is_not_there_is_told_the_nearest():
    with pytest.raises(UserError, match=r"got 'digit_asym': did you mean digits_asym"):
        get_config("digit_asym")
    with pytest.raises(UserError, match=r"got 'configs/absent\.py': .*presets: .*cifar10_sym"):
        get_config("configs/absent.py")


# Studies.


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_every_point_of_a_study_is_an_experiment(path):
    assert f"rmdnet sweep studies/{path.name} --workdir " in document(path)
    study = runpy.run_path(str(path))
    points = study["sweep"]("root")
    places = {name: i for i, name in enumerate(points)}
    for name, arg in [*points.items()][::7]:
        config = resolve(study["get_config"](arg))
        if config.teacher.startswith("root/"):  # else a file of the user's
            teacher = config.teacher.removeprefix("root/")
            assert places[teacher] < places[name], f"{name}: its teacher comes first"


def swept(*arguments):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "rmdnet_jax.cli", "sweep", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_a_sweep_prints_its_commands():
    done = swept("studies/methods.py", "--workdir", "runs", "--match", "same/pair-ce-rmdnet-[01]$")
    places = ["runs/same/pair-ce-rmdnet-0", "runs/same/pair-ce-rmdnet-1"]
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert [line[-1] for line in lines] == [
        *places,
        *(p.replace("same", "simclr/same") for p in places),
    ]
    for words in lines:
        assert words[:3] == ["rmdnet", "train", "--config"]
        resolve(get_config(words[3].replace("studies", str(ROOT / "studies"))))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("configs/digits.py",), "configs/digits.py is one experiment, not a study"),
        (("configs/absent.py",), "config must be a file or a preset, got 'configs/absent.py'"),
        (("studies/digits.py:quick",), "study must be a file without a colon"),
        (("studies/methods.py", "--match", "("), "no regular expression"),
    ],
)
def test_a_sweep_says_what_is_wrong(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert cli.main(["sweep", *arguments, "--workdir", str(tmp_path / "runs")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


STUDY = """
from rmdnet_jax.app.presets import digits, experiment

def get_config(arg=""):
    return experiment(digits(), arg)

def sweep(root):
    return {points}
"""


def test_a_sweep_names_the_point_that_cannot_run(tmp_path, capsys):
    study = tmp_path / "study.py"
    for point, said in (
        ("rate=1.5", "high: noise.rate must be in [0, 1], got 1.5"),
        ("rtae=1.5", "high: unknown field 'rtae': did you mean rate"),
    ):
        study.write_text(STUDY.replace("{points}", str({"high": point})))
        assert sweep.main([str(study), "--workdir", str(tmp_path / "runs"), "--run"]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(said)


def test_a_sweep_that_fails_is_one_line(tmp_path, capsys):
    study = tmp_path / "study.py"
    for points, said in (("1 / 0", "ZeroDivisionError"), ("None", "AttributeError")):
        study.write_text(STUDY.replace("{points}", points))
        assert cli.main(["sweep", str(study), "--workdir", str(tmp_path / "runs")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{study}: sweep(root) failed: {said}: " in line


def test_a_sweep_refuses_a_point_of_older_settings(tmp_path, capsys):
    study = tmp_path / "study.py"
    study.write_text(STUDY.replace("{points}", str({"a": ""})))
    (tmp_path / "runs" / "a").mkdir(parents=True)

    def wrote(epochs):
        config = {**resolve(override(digits(), {"epochs": epochs})).to_dict(), "given": {}}
        for name, content in (("config", config), ("summary", {})):
            (tmp_path / "runs" / "a" / f"{name}.json").write_text(json.dumps(content))

    wrote(80)
    assert sweep.main([str(study), "--workdir", str(tmp_path / "runs"), "--run"]) == 0
    wrote(9)
    assert sweep.main([str(study), "--workdir", str(tmp_path / "runs"), "--run"]) == 2
    assert (
        "a run whose config differs (relation_guided.epochs is 9 there, 80 here: "
        in capsys.readouterr().err.splitlines()[-1]
    )


def test_one_name_is_a_list_of_one_and_a_batch_size_is_of_all_stages():
    config = resolve(override(digits(), {"controls": "base", "batch_size": 32}))
    assert config.controls == ("base",)
    assert config.relation_modeling.batch_size == config.relation_guided.batch_size == 32


@pytest.mark.parametrize("own", ["dir=photos", "data=own.npz", "data.name=cifar10"])
def test_quick_keeps_the_data_that_the_user_names(own):
    """It shrinks the network and the training; without a word on data it takes the digits."""
    config = load("image_folder", f"quick,{own}")
    assert (config.data.name, config.data.dir) != ("digits", "")
    assert config.data.name != "digits"
    assert config.relation_guided.epochs == 3
    assert load("image_folder", "quick").data.name == "digits"


@pytest.mark.parametrize(
    ("arg", "flags", "field", "value"),
    [
        ("rate=0.9", {"noise": "pair"}, "noise.rate", 0.9),
        ("rate=0.9", {"noise.name": "pair", "rate": 0.2}, "noise.rate", 0.2),
        (
            "learning_rate=0.5",
            {"relation_guided.optimizer.name": "adamw"},
            "relation_guided.optimizer.learning_rate",
            0.5,
        ),
    ],
)
def test_a_field_after_the_colon_outlives_a_choice_by_a_flag(arg, flags, field, value):
    together = ",".join([arg, *(f"{name}={said}" for name, said in flags.items())])
    for config in (get_config(f"digits:{arg}", flags), get_config(f"digits:{together}")):
        assert schema.at(resolve(config), field) == value
    with pytest.raises(UserError, match=r"unknown field 'noise\.inclusive': pair has name, rate"):
        get_config("digits:inclusive", {"noise": "pair"})


def test_a_number_that_no_float_holds_is_one_line():
    with pytest.raises(UserError, match=r"relation_guided\.epochs must be >= 0 and finite, got 9"):
        resolve(override(digits(), {"epochs": "9" * 400}))
