"""From a preset with overrides to a config in which every field is set and allowed.

Values that depend on others are filled in here, after all overrides: so it does not matter where
or in which order a value was set.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from rmdnet_jax.app import features, schema
from rmdnet_jax.app.arms import NAMES
from rmdnet_jax.app.overrides import typed
from rmdnet_jax.app.schema import Config
from rmdnet_jax.errors import UserError, one_of, under, unknown, within, wrong
from rmdnet_jax.relations.neighbours import SEARCHES
from rmdnet_jax.relations.propagation import IN_DOUBT

# (data set, method): what the method's authors set differently there; ours for digits, whose
# epochs have 11 steps: the best of 10, 20, 40, 80 for JoCoR alone at symmetric 50 %, two seeds.
RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("digits", "jocor"): {"ramp_epochs": 80.0},
    ("cifar100", "sce"): {"alpha": 6.0, "beta": 0.1},
    ("cifar100", "elr"): {"weight": 7.0, "momentum": 0.9},
    ("cifar100", "dividemix"): {"warmup_epochs": 30},
}
# DivideMix's weight of unlabelled examples up to a noise rate of 35 %, of 85 %, and above, its
# authors'.
UNLABELLED = {"cifar10": (0.0, 25.0, 50.0), "cifar100": (25.0, 150.0, 150.0)}
# Weights at which a loss's first gradient on the student's features is as long as the default's,
# measured on digits; else 1.
WEIGHTS = {
    "pearson": 0.03, "rkd_distance": 12.0, "rkd_angle": 15.0, "similarity_preserving": 1500.0,
    "pkt": 60000.0, "pearson_identity": 0.008, "infonce": 0.6,
}  # fmt: skip

AVERAGE = 0.99  # decay of the averaged parameters where these teach


def recipe(path: str, config: Config) -> dict[str, Any]:
    """What fills the fields of a choice before the entry's own defaults do."""
    if path == "noise":  # its seed is the run's; CIFAR has class maps of its own
        own = config.noise.name == "asymmetric" and config.data.name in ("cifar10", "cifar100")
        return {"seed": config.seed, **({"mapping": config.data.name} if own else {})}
    if path in ("relation_guided.edge", "relation_guided.node"):
        return {"weight": WEIGHTS.get(schema.at(config, path).name, 1.0)}
    return method_recipe(config) if path == "relation_guided.method" else {}


def method_recipe(config: Config) -> dict[str, Any]:
    """What a method's authors set on this data set, under this noise, on these targets."""
    data, name = config.data.name, config.relation_guided.method.name
    fields = dict(RECIPES.get((data, name), {}))
    if name == "dividemix":
        epochs = config.relation_guided.epochs
        if fields.setdefault("warmup_epochs", 10) >= epochs:  # a training too short for it
            fields["warmup_epochs"] = max(2, epochs // 3)
        fields |= _unlabelled(config)
    return fields


def _unlabelled(config: Config) -> dict[str, Any]:
    """DivideMix's weight of unlabelled examples by noise; of corrected labels few are wrong."""
    if config.relation_guided.targets != "given":
        return {"unlabelled_weight": 0.0}
    if config.data.name not in UNLABELLED:
        return {}
    if config.noise.name == "asymmetric":
        return {"unlabelled_weight": 0.0, "confidence_penalty": 1.0}
    rate = config.relation_guided.method.get("rate", "mixture")
    if isinstance(rate, str):  # that of the noise, which a graph is not to know
        rate = 0.4 if rate == "graph" else config.noise.get("rate", 0.4)
    return {"unlabelled_weight": UNLABELLED[config.data.name][(rate > 0.35) + (rate > 0.85)]}


def resolve(config: Config) -> Config:
    """The config with every field set; raises `UserError` for a field or value that cannot be.

    A resolved config resolves to itself.
    """
    plain = config.to_dict()
    full = schema.digits()
    for section, default in full.to_dict().items():
        if isinstance(default, dict) and not isinstance(plain.get(section, {}), dict):
            raise wrong(section, f"be a section of fields, got {plain[section]!r:.60}")
    for path, default in schema.flatten(full.to_dict()).items():
        if not path.startswith(tuple(f"{node}." for node in schema.TABLES)):
            schema.put(full, path, typed(path, _pop(plain, path, default), default))
    for node in schema.TABLES:
        schema.put(full, node, _pop(plain, node, {"name": schema.at(full, node).name}))
    if rest := schema.flatten(plain):
        raise UserError(f"unknown field {min(rest)!r}")
    for node in schema.TABLES:  # noise first: others depend on its rate
        schema.put(full, node, _filled(full, node))
    full.relation_guided.average = _average(full.relation_guided)
    full.relation_guided.teacher_features = _seen(full)
    check(full)
    return full.lock()


def _average(guided: Config) -> float:
    """The decay of the students' averaged parameters: there are some where they teach."""
    average, teaches = guided.average, guided.consistency.weight > 0
    if average == "auto":
        return AVERAGE if teaches else 0.0
    if isinstance(average, str):
        raise wrong("relation_guided.average", f"be 'auto' or a number, got {average!r}")
    if teaches and average == 0:
        raise wrong("relation_guided.average", "be > 0 where consistency learns from it, got 0")
    return float(average)


def _seen(config: Config) -> str:
    """How students see the teacher: a file of features cannot be run on their views."""
    if config.relation_guided.teacher_features != "auto":
        return config.relation_guided.teacher_features
    return "stored" if str(config.teacher).endswith(features.SUFFIXES) else "online"


def _pop(tree: dict, path: str, default: Any) -> Any:
    """Takes the value at a dotted path out of a tree; `default` where there is none."""
    *parents, last = path.split(".")
    for part in parents:
        tree = tree.get(part, {})
    return tree.pop(last, default)


def _filled(config: Config, path: str) -> Config:
    """A choice with all its fields."""
    chosen = dict(schema.at(config, path))
    name = chosen.pop("name", None)
    one_of(f"{path}.name", name, schema.TABLES[path])
    defaults = schema.fields(path, str(name))
    for key in chosen:
        if key not in defaults:
            raise unknown(f"{path}'s field ({name})", key, ["name", *defaults])
    schema.put(config, path, schema.made({"name": name, **defaults, **chosen}))
    auto = recipe(path, config)
    values = {key: chosen.get(key, auto.get(key, default)) for key, default in defaults.items()}
    if values.get("mapping") == "auto":
        values["mapping"] = auto.get("mapping", "pair")
    done = {key: typed(f"{path}.{key}", value, defaults[key]) for key, value in values.items()}
    return schema.made({"name": name, **done})


# Field -> what numbers it takes; "int" before an interval: whole numbers only.
ALLOWED = {
    "seed": "int [0, 2147483647]",
    "noise.seed": "int [0, 2147483647]",
    "data.validation": "[0, 0.9]",
    "data.limit": "int [0, inf)",
    "data.image_size": "int [1, inf)",
    "data.workers": "int [0, 1024]",
    "checkpoint_steps": "int [1, inf)",
    "teacher_crops": "int [0, 256]",
    "steps_per_call": "int [0, 1000]",
    "relation_modeling.epochs": "int [0, inf)",
    "relation_modeling.batch_size": "int [2, inf)",
    "relation_modeling.average": "[0, 0.99999]",
    "relation_modeling.evaluate_every": "int [1, inf)",
    "relation_modeling.knn.k": "int [1, inf)",
    "relation_modeling.knn.temperature": "(0, inf)",
    "relation_guided.epochs": "int [0, inf)",  # 0: relation modeling alone
    "relation_guided.batch_size": "int [2, inf)",
    "relation_guided.average": "[0, 0.99999]",
    "relation_guided.weight": "[0, inf)",
    "relation_guided.mixup": "[0, 1000]",
    "relation_guided.anchors": "int [0, 1048576]",
    "relation_guided.edge.weight": "[0, inf)",
    "relation_guided.node.weight": "[0, inf)",
    "relation_guided.rounds": "int [1, 10]",
    "relation_guided.propagation.mix": "[0, 1]",
}
MOST = 3.4028235e38  # what float32 holds
NAMED = {
    "data.pipeline": schema.PIPELINES,
    "relation_guided.init": schema.INITS,
    "relation_guided.targets": schema.TARGETS,
    "relation_guided.teacher_features": schema.FEATURES,
    "relation_guided.propagation.in_doubt": IN_DOUBT,
    "relation_guided.propagation.search": SEARCHES,
}


def check(config: Config) -> None:
    """Raises `UserError` for values that no table entry checks by itself."""
    guided = config.relation_guided
    for path, interval in ALLOWED.items():
        whole = interval.startswith("int ")
        value = schema.at(config, path)
        if value == "auto":  # allowed where it could be set
            continue
        if whole or math.isfinite(value):
            within(path, value, interval.removeprefix("int "), whole=whole)
    for path, value in schema.flatten(config.to_dict()).items():
        _check_plain(path, value)
    for path, names in NAMED.items():
        one_of(path, schema.at(config, path), names)
    within("relation_guided.warmup_epochs", guided.warmup_epochs, f"[0, {guided.epochs}]")
    augment = config.relation_modeling.augmentation
    if config.teacher_crops and "min_scale" not in augment:
        got = f"got {config.teacher_crops} with {augment.name}"
        raise wrong(
            "teacher_crops", f"be 0 where relation_modeling.augmentation crops nothing, {got}"
        )
    warm = guided.method.get("warmup_epochs", 0)
    if warm >= guided.epochs > 0:
        raise wrong(
            "relation_guided.method.warmup_epochs",
            f"be below relation_guided.epochs, {guided.epochs}, got {warm}",
        )
    for control in config.controls:
        one_of("controls", control, NAMES)
        if control.startswith("rmdnet") and not guided.weight:
            raise wrong("relation_guided.weight", f"be > 0 for the control {control!r}, got 0")


def _check_plain(path: str, value: Any) -> None:
    """Refuses a number that 32 bits do not hold, and what a JSON file does not."""
    if isinstance(value, float) and not math.isfinite(value):
        raise wrong(path, f"be a finite number, got {value}")
    if isinstance(value, float) and abs(value) > MOST:
        raise wrong(path, f"be a number that 32 bits hold, got {value}")
    if isinstance(value, int) and not abs(value) < 1 << 31:
        raise wrong(path, f"be below 2^31, got {value!r:.40}")
    if isinstance(value, tuple):
        for item in value:
            _check_plain(path, item)
    elif not isinstance(value, bool | int | float | str | None):
        raise wrong(path, f"be numbers and text, got {value!r:.60}")


def build(path: str, config: Config, *facts: Any, rate: float = 0.0) -> Any:
    """Calls the entry that a choice names with the facts and its fields; errors say where.

    `rate` is the noise rate of a method whose own is "graph"; any will do to try its shapes.
    """
    graph = {"rate": rate} if schema.at(config, path).get("rate") == "graph" else {}
    with under(path):
        return bound(path, config)(*facts, **graph)


def bound(path: str, config: Config) -> Callable:
    """The entry that a choice names, with its own fields bound."""
    chosen = dict(schema.at(config, path))
    factory = schema.TABLES[path][chosen.pop("name")]
    beside = schema.BESIDE.get(path, {})
    return functools.partial(factory, **{k: v for k, v in chosen.items() if k not in beside})
