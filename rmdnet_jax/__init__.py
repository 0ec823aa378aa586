"""Learning with noisy labels on JAX: find wrong labels, and train in spite of them.

    import rmdnet_jax as rmd

    found = rmd.find_label_errors(features, labels)   # from embeddings of any model
    found.table                                       # most suspect first

    run = rmd.train("digits", "runs/digits")          # RMDNet beside its controls
    run.predict(images)

Every name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

if TYPE_CHECKING:
    from rmdnet_jax import noise as noise
    from rmdnet_jax.app.api import Trained as Trained
    from rmdnet_jax.app.api import train as train
    from rmdnet_jax.app.load import get_config as get_config
    from rmdnet_jax.app.presets import experiment as experiment
    from rmdnet_jax.app.student import Student as Student
    from rmdnet_jax.app.student import load as load
    from rmdnet_jax.data.augment import AUGMENTATIONS as AUGMENTATIONS
    from rmdnet_jax.errors import UserError as UserError
    from rmdnet_jax.labels.audit import LabelErrors as LabelErrors
    from rmdnet_jax.labels.audit import find_label_errors as find_label_errors
    from rmdnet_jax.labels.estimator import LabelAuditor as LabelAuditor
    from rmdnet_jax.labels.noise import KINDS as KINDS
    from rmdnet_jax.methods import METHODS as METHODS
    from rmdnet_jax.networks.adapters import adapt as adapt
    from rmdnet_jax.networks.encoders import ENCODERS as ENCODERS
    from rmdnet_jax.relations.anchors import anchored_kl as anchored_kl
    from rmdnet_jax.relations.losses import EDGES as EDGES
    from rmdnet_jax.relations.losses import NODES as NODES
    from rmdnet_jax.relations.losses import cosine as cosine
    from rmdnet_jax.relations.losses import infonce as infonce
    from rmdnet_jax.relations.losses import matrix as relation_matrix  # noqa: F401
    from rmdnet_jax.relations.losses import pearson as pearson
    from rmdnet_jax.relations.losses import pearson_identity as pearson_identity
    from rmdnet_jax.relations.losses import pkt as pkt
    from rmdnet_jax.relations.losses import rkd_angle as rkd_angle
    from rmdnet_jax.relations.losses import rkd_distance as rkd_distance
    from rmdnet_jax.relations.losses import similarity_preserving as similarity_preserving
    from rmdnet_jax.relations.losses import softmax_kl as softmax_kl
    from rmdnet_jax.ssl import SSL as SSL

# Module -> what it shows here.
_SHOWN = {
    "app.api": ("train", "Trained"),
    "app.load": ("get_config",),
    "app.presets": ("experiment",),
    "app.student": ("load", "Student"),
    "data.augment": ("AUGMENTATIONS",),
    "errors": ("UserError",),
    "labels.audit": ("find_label_errors", "LabelErrors"),
    "labels.estimator": ("LabelAuditor",),
    "labels.noise": ("KINDS",),
    "methods": ("METHODS",),
    "networks.adapters": ("adapt",),
    "networks.encoders": ("ENCODERS",),
    "relations.anchors": ("anchored_kl",),
    "relations.losses": (
        "EDGES", "NODES", "cosine", "infonce", "pearson", "pearson_identity", "pkt", "rkd_angle",
        "rkd_distance", "similarity_preserving", "softmax_kl",
    ),
    "ssl": ("SSL",),
}  # fmt: skip
_HOME = {name: (module, name) for module, names in _SHOWN.items() for name in names}
_HOME["relation_matrix"] = ("relations.losses", "matrix")

__all__ = ["noise", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "noise":
        return importlib.import_module("rmdnet_jax.noise")
    if name not in _HOME:
        raise AttributeError(f"module 'rmdnet_jax' has no attribute {name!r}")
    module, own = _HOME[name]
    value = getattr(importlib.import_module(f"rmdnet_jax.{module}"), own)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
