"""The whole schema of an experiment: its fields, their defaults, and the tables it chooses from.

A *choice* is a node such as `{"name": "sgd", "learning_rate": 0.1}`: an entry of a table and what
is set of its keyword arguments. A field that is not set is filled in by `resolve`, last.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from rmdnet_jax.data.augment import AUGMENTATIONS
from rmdnet_jax.errors import UserError
from rmdnet_jax.labels.noise import KINDS
from rmdnet_jax.methods import METHODS, consistency
from rmdnet_jax.networks.encoders import ENCODERS
from rmdnet_jax.relations.losses import EDGES, NODES
from rmdnet_jax.relations.propagation import propagate
from rmdnet_jax.ssl import SSL
from rmdnet_jax.training.optimizer import OPTIMIZERS
from rmdnet_jax.types import hyper


def custom(*, network: str = "") -> Any:
    """A network that is given from Python, in place of an entry of `ENCODERS`."""
    raise UserError(f"the network {network!r} is given from Python: train(..., encoder=...)")


Config = Any  # an ml_collections.ConfigDict: its fields are known at run time only
TABLES: dict[str, Mapping[str, Callable]] = {
    "noise": KINDS,
    "encoder": ChainMap(ENCODERS, {"custom": custom}),
    "relation_modeling.ssl": SSL,
    "relation_modeling.augmentation": AUGMENTATIONS,
    "relation_modeling.optimizer": OPTIMIZERS,
    "relation_guided.method": METHODS,
    "relation_guided.edge": EDGES,
    "relation_guided.node": NODES,
    "relation_guided.augmentation": AUGMENTATIONS,
    "relation_guided.strong": AUGMENTATIONS,
    "relation_guided.optimizer": OPTIMIZERS,
}
# Fields that a choice has beside its entry's own.
BESIDE: dict[str, dict[str, Any]] = {
    "noise": {"seed": 0},
    "encoder": {"norm_group": 0},  # images that a batch norm sees at a time; 0: the whole batch
    "relation_guided.edge": {"weight": 1.0},
    "relation_guided.node": {"weight": 1.0},
}
# Short names, for all places where a value is set.
SHORT = {
    "method": "relation_guided.method.name",
    "ssl": "relation_modeling.ssl.name",
    "edge": "relation_guided.edge.name",
    "node": "relation_guided.node.name",
    "targets": "relation_guided.targets",
    "in_doubt": "relation_guided.propagation.in_doubt",
    "weight": "relation_guided.weight",
    "epochs": "relation_guided.epochs",
    "learning_rate": "relation_guided.optimizer.learning_rate",
    "modeling": "relation_modeling.epochs",
    "encoder": "encoder.name",
    "noise": "noise.name",
    "rate": "noise.rate",
    "inclusive": "noise.inclusive",
    "path": "noise.path",
    "field": "noise.field",
    "dir": "data.dir",
    "size": "data.image_size",
    "limit": "data.limit",
    "labels": "data.labels",
    "validation": "data.validation",
}
# propagated: corrected over the teacher's relation graph; rounds: then over the student's own.
TARGETS = ("given", "propagated", "rounds")
FEATURES = ("online", "stored")  # of the augmented view, or of one clean view of each example
PIPELINES = ("auto", "resident", "streaming")  # images decoded at once, or when it is their turn
INITS = ("random", "teacher")


def fields(path: str, name: str) -> dict[str, Any]:
    """The fields of a choice with their defaults: those of the entry `name`, and beside them."""
    return {**hyper(TABLES[path][name]), **BESIDE.get(path, {})}


def made(tree: dict) -> Config:
    """A config of a tree; `overrides.typed` checks what is set later, so nothing else does."""
    return ConfigDict(tree, type_safe=False)


def choice(name: str, **set_: Any) -> Config:
    """A choice and what is set of its fields."""
    return made({"name": name, **set_})


def digits() -> Config:
    """scikit-learn's digits in a minute on two cores: the schema, and a working experiment."""
    return locked(made({
        "seed": 0,
        "data": {
            "name": "digits",  # digits, npz, folder, table, or a TFDS data set
            "dir": "",  # the .npz file, the folder, the list, or TFDS's data_dir
            "validation": 0.0,  # share of the training set held out with its noisy labels
            "image_size": 32,  # pixels, for images of varying size
            "labels": "",  # a CSV of reviewed or corrected labels, see `reviewed`
            "limit": 0,  # so many training examples, drawn from all classes; 0: all
            "broken": "refuse",  # or skip: images of a folder that cannot be read
            "pipeline": "auto",  # out of PIPELINES
            "workers": 0,  # processes that decode what is streamed; 0: threads of this one
        },
        "noise": choice("symmetric"),
        "encoder": choice("cnn"),
        "teacher_crops": 0,  # of an image, that its features are the mean of; 0: all of it
        "teacher": "",  # a run's workdir, a file of weights or of features; "": stage 1 trains it
        "relation_modeling": {
            "ssl": choice("simsiam", projection=128, hidden=64),
            "augmentation": choice("digits"),
            "optimizer": choice("sgd", learning_rate=0.1),
            "epochs": 150,
            "batch_size": 256,
            "average": 0.0,  # decay of the parameters' moving average; 0: none
            "evaluate_every": 10,  # epochs between kNN evaluations
            "knn": {"k": 20, "temperature": 0.1},
        },
        "relation_guided": {
            "method": choice("ce"),
            "weight": 30.0,  # K
            "edge": choice("softmax_kl"),
            "node": choice("cosine"),
            "anchors": 0,  # stored teacher features a batch is related to; 0: to itself
            "targets": "given",  # out of TARGETS
            "propagation": hyper(propagate),  # see its docstring
            "rounds": 2,  # at most so many corrections by the student, for targets=rounds
            "mixup": 0.0,  # alpha of Beta(alpha, alpha); 0: none; for ce, gce and sce
            "consistency": hyper(consistency),  # see its docstring
            "warmup_epochs": 0.0,  # of K
            "augmentation": choice("none"),
            "strong": choice("randaugment"),  # of the view that `consistency` teaches
            "optimizer": choice("sgd"),
            "epochs": 80,
            "batch_size": 128,
            "average": "auto",  # 0; with `consistency` 0.99
            "init": "random",  # out of INITS
            "teacher_features": "auto",  # "stored" of a file of features, else "online"
        },
        "audit": False,  # whether the run ends with an audit of its labels, in audit/
        "controls": (),  # arms beside the experiment's own, out of arms.NAMES
        "checkpoint_steps": 500,
        "steps_per_call": 0,  # of the optimiser in one program; 0: 1 on a CPU, 16 elsewhere
        "deterministic": False,  # on a GPU: the same bits each time, see `exact`
        "tensorboard": False,
    }))  # fmt: skip


def locked(config: Config) -> Config:
    """Locks a config against new fields, but for its choices: theirs come with their names."""
    config.lock()
    for path in TABLES:
        at(config, path).unlock()
    return config


def at(config: Any, path: str) -> Any:
    """The node or value at a dotted path."""
    for part in path.split("."):
        config = config[part]
    return config


def put(config: Config, path: str, value: Any) -> None:
    """Sets the node or value at a dotted path."""
    *parents, last = path.split(".")
    node = at(config, ".".join(parents)) if parents else config
    node[last] = value


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        inner = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat
