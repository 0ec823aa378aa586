"""The whole schema of an experiment. A table entry's keyword defaults are its fields: `choose` reads them, nothing is written twice."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from rmdnet_jax.data.augment import AUGMENTATIONS
from rmdnet_jax.errors import UserError, unknown
from rmdnet_jax.files import flatten
from rmdnet_jax.labels.noise import KINDS
from rmdnet_jax.methods import METHODS
from rmdnet_jax.networks.encoders import ENCODERS
from rmdnet_jax.relations.losses import EDGES, NODES
from rmdnet_jax.relations.neighbours import SEARCHES
from rmdnet_jax.relations.propagation import IN_DOUBT, propagate
from rmdnet_jax.ssl import SSL
from rmdnet_jax.training.optimizer import OPTIMIZERS
from rmdnet_jax.types import Config, entry, hyper

CONTROLS = ("base", "base_from_teacher", "teacher_knn", "teacher_probe")
# The arguments that every experiment takes, with their defaults: `parse(arg, **ARGUMENTS, ...)`, then `assemble`.
ARGUMENTS = {
    "quick": False, "seed": 0, "method": "ce", "ssl": "simsiam", "edge": "softmax_kl", "node": "cosine", "targets": "given", "encoder": "",
}  # fmt: skip
TARGETS = (
    "given",
    "propagated",
)  # what a student learns; propagated: corrected over the teacher's relation graph, our extension
# (data set, method): what the method's authors set differently there; ours for digits, whose epochs have 11 steps.
RECIPES = {
    ("digits", "jocor"): {
        "ramp_epochs": 80.0
    },  # the best of 10, 20, 40, 80 for JoCoR alone at symmetric 50 %, seeds 100 and 101
    ("cifar100", "sce"): {"alpha": 6.0, "beta": 0.1},
    ("cifar100", "elr"): {"weight": 7.0, "momentum": 0.9},
    ("cifar100", "dividemix"): {"warmup_epochs": 30},
}
# DivideMix's weight of unlabelled examples up to a noise rate of 35 %, of 85 %, and above, its authors'; none at asymmetric noise.
UNLABELLED = {"cifar10": (0.0, 25.0, 50.0), "cifar100": (25.0, 150.0, 150.0)}
# Weights at which a loss's first gradient on the student's features is as long as the default's, measured on digits; else 1.
WEIGHTS = {
    "pearson": 0.03, "rkd_distance": 12.0, "rkd_angle": 15.0, "similarity_preserving": 1500.0, "pkt": 60000.0,
    "pearson_identity": 0.008, "infonce": 0.6,
}  # fmt: skip


def choose(table: dict[str, Callable], name: str, **fields: Any) -> Config:
    """The configuration of a table's entry: its name, its hyper-parameters with their defaults, and `fields` in their place."""
    factory = entry(table, "config", name, fields)
    return ConfigDict({"name": name, **hyper(factory), **fields})


def bind(table: dict[str, Callable], field: str, node: Config, beside: tuple = ()) -> Callable:
    """The entry that `node` names with its fields bound; those named in `beside` are not the entry's."""
    fields = {name: value for name, value in node.items() if name not in ("name", *beside)}
    found = entry(table, field, node.name, fields)
    if missing := sorted(hyper(found).keys() - fields):
        raise UserError(
            f"{field} {node.name!r} needs {', '.join(missing)}: choose it by the config's argument, which sets its fields"
        )
    return functools.partial(found, **fields)


def build(table: dict[str, Callable], field: str, node: Config, *facts: Any) -> Any:
    """Calls the entry that `node` names with the facts and its fields."""
    return bind(table, field, node)(*facts)


def parse(arg: str, **defaults: Any) -> types.SimpleNamespace:
    """Reads a config's argument string, "quick,method=elr,rate=0.2": each value typed by its default, a bare name sets a flag."""
    values = dict(defaults)
    for item in filter(None, arg.split(",")):
        name, given, text = item.partition("=")
        if name not in defaults:
            raise unknown("the config's argument", name, defaults)
        kind = type(defaults[name])
        if kind is bool:
            text = text if given else "true"
            if text.lower() not in ("true", "false"):
                raise UserError(f"{name} must be true or false, got {text!r}")
            values[name] = text.lower() == "true"
            continue
        try:
            values[name] = kind(text)
        except ValueError:
            raise UserError(f"{name} must be of type {kind.__name__}, got {text!r}") from None
    return types.SimpleNamespace(**values)


def default() -> Config:
    """scikit-learn's digits, with settings that take a minute on two cores: the schema and a working experiment."""
    config: Config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict({
        "name": "digits",  # digits, npz, folder, or a TFDS data set
        "dir": "",  # the .npz file, the folder, or TFDS's data_dir
        "validation": 0.0,  # share of the training set held out with its noisy labels
        "image_size": 32,  # pixels, for images of varying size
        "limit": 0,  # only the first so many training examples; 0: all
    })  # fmt: skip
    config.noise = choose(KINDS, "symmetric")
    config.noise.seed = 0
    config.encoder = choose(ENCODERS, "cnn")
    config.teacher = ""  # workdir of an earlier run whose teacher serves this one
    config.relation_modeling = ConfigDict({
        "ssl": choose(SSL, "simsiam", projection=128, hidden=64),
        "augmentation": choose(AUGMENTATIONS, "digits"),
        "optimizer": choose(OPTIMIZERS, "sgd", learning_rate=0.1),
        "epochs": 150,
        "batch_size": 256,
        "average": 0.0,  # decay of the moving average of parameters, which is then evaluated and kept; 0: none
        "evaluate_every": 10,  # epochs between kNN evaluations
        "knn": ConfigDict({"k": 20, "temperature": 0.1}),
    })  # fmt: skip
    config.relation_guided = ConfigDict({
        "method": choose(METHODS, "ce"),
        "weight": 30.0,  # K
        "edge": ConfigDict({**choose(EDGES, "softmax_kl"), "weight": 1.0}),
        "node": ConfigDict({**choose(NODES, "cosine"), "weight": 1.0}),
        "targets": "given",  # out of TARGETS
        "propagation": ConfigDict({
            **hyper(propagate),  # see its docstring
            "refresh": 0,  # epochs after which targets are made again from the student's features; 0: never
        }),
        "mixup": 0.0,  # alpha of the mixed images' Beta(alpha, alpha); 0: none; for ce, gce and sce
        "warmup_epochs": 0.0,  # of K
        "augmentation": choose(AUGMENTATIONS, "none"),
        "optimizer": choose(OPTIMIZERS, "sgd"),
        "epochs": 80,
        "batch_size": 128,
        "average": 0.0,
        "init": "random",  # or teacher
        "teacher_features": "online",  # the augmented view, or stored: one clean view of each example
    })  # fmt: skip
    config.controls = ()  # out of CONTROLS
    config.checkpoint_steps = 500
    config.tensorboard = False
    return config.lock()


def cifar(name: str) -> Config:
    """`cifar10` or `cifar100` for one accelerator: the authors' SimSiam recipe, then 100 epochs of a PreAct ResNet-18."""
    config = default()
    config.data.name = name
    with config.unlocked():
        config.encoder = choose(ENCODERS, "preact_resnet18", dtype="bfloat16")
        modeling, guided = config.relation_modeling, config.relation_guided
        modeling.ssl = choose(SSL, "simsiam")
        modeling.augmentation = choose(AUGMENTATIONS, "simsiam")
        modeling.optimizer = choose(OPTIMIZERS, "sgd", learning_rate=0.06)
        modeling.epochs, modeling.batch_size, modeling.knn.k = 200, 512, 200
        guided.augmentation = choose(AUGMENTATIONS, "crop_flip")
        guided.epochs = 100
        guided.weight = 1.0
    return config


def small(config: Config) -> Config:
    """Shrinks a CIFAR experiment for a CPU: a small CNN on the first 5,000 images."""
    config.data.limit = 5000
    with config.unlocked():
        config.encoder = choose(ENCODERS, "cnn", widths=(16, 32, 64, 128))
        config.relation_modeling.ssl = choose(
            SSL, config.relation_modeling.ssl.name, projection=256, hidden=64
        )
        config.relation_guided.augmentation = choose(
            AUGMENTATIONS, "none"
        )  # so that the base method memorises
    config.relation_modeling.batch_size = 256
    config.relation_modeling.epochs, config.relation_guided.epochs = 60, 30
    config.relation_guided.weight = 3.0
    if "warmup_epochs" in config.relation_guided.method:
        config.relation_guided.method.warmup_epochs = min(
            config.relation_guided.method.warmup_epochs, 10
        )
    config.controls = CONTROLS
    return config


def quick(config: Config) -> Config:
    """Shrinks an experiment to seconds on the embedded digits, to try its wiring; its numbers mean nothing."""
    with config.unlocked():
        config.data = default().data
        config.encoder = choose(ENCODERS, "cnn", widths=(8, 16), dtype=config.encoder.dtype)
        if "mapping" in config.noise:
            config.noise.mapping = "auto"
        if config.noise.name == "file":
            config.noise = ConfigDict({**choose(KINDS, "pair"), "seed": config.noise.seed})
        config.relation_modeling.ssl.projection = 32
        config.relation_modeling.ssl.hidden = 16
        for stage, augmentation in (
            (config.relation_modeling, "digits"),
            (config.relation_guided, "shift"),
        ):
            stage.epochs, stage.batch_size = 2, 128
            stage.augmentation = choose(AUGMENTATIONS, augmentation)
            stage.optimizer.warmup_epochs = 0.0
        config.relation_modeling.knn.k = 20
        if "warmup_epochs" in config.relation_guided.method:
            config.relation_guided.method.warmup_epochs, config.relation_guided.epochs = 2, 3
    return config


def pick(field: str, name: str, table: dict) -> Any:
    """`table[name]`; raises `UserError` for a name that is not in it."""
    _among(field, name, table)
    return table[name]


def recipe(data: str, method: str, targets: str, kind: str, rate: float) -> dict[str, Any]:
    """What a method's authors set on this data set under noise of this kind and rate, and as for little noise on corrected labels."""
    fields = RECIPES.get((data, method), {})
    if method == "dividemix" and targets == "propagated":
        return fields | {"unlabelled_weight": 0.0}
    if method == "dividemix" and data in UNLABELLED:
        weight = UNLABELLED[data][(rate > 0.35) + (rate > 0.85)]
        asymmetric = {"unlabelled_weight": 0.0, "confidence_penalty": 1.0}
        fields = fields | (asymmetric if kind == "asymmetric" else {"unlabelled_weight": weight})
    return fields


def assemble(config: Config, arg: types.SimpleNamespace, kind: str, **fields: Any) -> Config:
    """An experiment from a base config, the arguments `ARGUMENTS` and `small`, and a noise kind with its fields."""
    for name, table in (("method", METHODS), ("ssl", SSL), ("edge", EDGES), ("node", NODES)):
        pick(
            name, arg.__dict__[name], table
        )  # an unknown name is told of as the argument that it is
    pick("noise", kind, KINDS)
    _among("targets", arg.targets, TARGETS)
    if arg.encoder:  # else the base config's
        pick("encoder", arg.encoder, ENCODERS)
    modeling, guided = config.relation_modeling, config.relation_guided
    own = hyper(SSL[modeling.ssl.name])
    heads = {
        field: modeling.ssl[field]
        for field in ("projection", "hidden")
        if modeling.ssl[field] != own[field]
    }
    config.seed, guided.targets = arg.seed, arg.targets
    with config.unlocked():
        config.noise = ConfigDict({**choose(KINDS, kind, **fields), "seed": arg.seed})
        guided.method = choose(
            METHODS,
            arg.method,
            **recipe(config.data.name, arg.method, arg.targets, kind, fields.get("rate", 0.4)),
        )
        if arg.ssl != modeling.ssl.name:
            modeling.ssl = choose(
                SSL, arg.ssl, **heads
            )  # a base config's own widths serve every objective
        for name, table in (("edge", EDGES), ("node", NODES)):
            if arg.__dict__[name] != guided[name].name:
                guided[name] = ConfigDict(
                    {
                        **choose(table, arg.__dict__[name]),
                        "weight": WEIGHTS.get(arg.__dict__[name], 1.0),
                    }
                )
    config = small(config) if getattr(arg, "small", False) else config
    if arg.encoder:
        with config.unlocked():
            config.encoder = choose(ENCODERS, arg.encoder, dtype=config.encoder.dtype)
    return quick(config) if arg.quick else config


def check(config: Config) -> None:
    """Raises `UserError` for values that no table entry checks by itself."""
    guided, modeling = config.relation_guided, config.relation_modeling
    for name, value in flatten(config.to_dict()).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name} must be a finite number, got {value}")
    _within("seed", config.seed, 0, 2**31 - 1)
    _within("noise.seed", config.noise.seed, 0, 2**31 - 1)
    _within("data.validation", config.data.validation, 0.0, 0.9)
    _within("checkpoint_steps", config.checkpoint_steps, 1)
    _within("relation_modeling.evaluate_every", modeling.evaluate_every, 1)
    _within("relation_modeling.knn.k", modeling.knn.k, 1)
    if not modeling.knn.temperature > 0:
        raise UserError(
            f"relation_modeling.knn.temperature must be > 0, got {modeling.knn.temperature}"
        )
    _within("relation_modeling.epochs", modeling.epochs, 0)
    _within("relation_guided.epochs", guided.epochs, 1)
    _within("relation_guided.warmup_epochs", guided.warmup_epochs, 0)
    for name in ("weight", "edge.weight", "node.weight"):
        _within(
            f"relation_guided.{name}",
            guided.weight if name == "weight" else guided[name.split(".")[0]].weight,
            0,
        )
    for name, stage in (("relation_modeling", modeling), ("relation_guided", guided)):
        _within(f"{name}.average", stage.average, 0.0, 0.99999)
    _among("relation_guided.init", guided.init, ("random", "teacher"))
    _among("relation_guided.targets", guided.targets, TARGETS)
    _within("relation_guided.propagation.mix", guided.propagation.mix, 0.0, 1.0)
    _within("relation_guided.propagation.refresh", guided.propagation.refresh, 0)
    _among("relation_guided.propagation.in_doubt", guided.propagation.in_doubt, IN_DOUBT)
    _among("relation_guided.propagation.search", guided.propagation.search, SEARCHES)
    _among("relation_guided.teacher_features", guided.teacher_features, ("online", "stored"))
    if (warm := guided.method.get("warmup_epochs", 0)) >= guided.epochs:
        raise UserError(
            f"relation_guided.method.warmup_epochs must be below relation_guided.epochs, {guided.epochs}, got {warm}"
        )
    for control in config.controls:
        _among("controls", control, CONTROLS)


def _within(field: str, value: float, low: float, high: float | None = None) -> None:
    if not (low <= value and (high is None or value <= high)):
        raise UserError(
            f"{field} must be "
            + (f">= {low}" if high is None else f"in [{low}, {high}]")
            + f", got {value}"
        )


def _among(field: str, value: str, allowed: tuple | dict) -> None:
    if value not in allowed:
        raise unknown(field, value, allowed)
