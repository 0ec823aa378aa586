"""The experiments that configs are made of, and how a config's argument changes them."""

from __future__ import annotations

from typing import Any

from rmdnet_jax.app.overrides import override, paths, split
from rmdnet_jax.app.schema import Config, choice, digits, locked, put
from rmdnet_jax.errors import wrong


def cifar(name: str) -> Config:
    """`cifar10` or `cifar100` on one accelerator: SimSiam's recipe, then a PreAct ResNet-18."""
    config = digits()
    values = {
        "data.name": name,
        "encoder": choice("preact_resnet18", dtype="bfloat16"),
        "relation_modeling.ssl": choice("simsiam"),
        "relation_modeling.augmentation": choice("simsiam"),
        "relation_modeling.optimizer": choice("sgd", learning_rate=0.06),
        "relation_modeling.epochs": 200,
        "relation_modeling.batch_size": 512,
        "relation_modeling.knn.k": 200,
        "relation_guided.augmentation": choice("crop_flip"),
        "relation_guided.epochs": 100,
        "relation_guided.weight": 1.0,
    }
    for path, value in values.items():
        put(config, path, value)
    return locked(config)


def small(config: Config) -> None:
    """Shrinks a CIFAR experiment for a CPU: a small CNN on 5,000 images of all classes."""
    values = {
        "data.limit": 5000,
        "encoder": choice("cnn", widths=(16, 32, 64, 128)),
        "relation_modeling.ssl.projection": 256,
        "relation_modeling.ssl.hidden": 64,
        "relation_modeling.batch_size": 256,
        "relation_modeling.epochs": 60,
        "relation_guided.augmentation": choice("none"),  # so that the base method memorises
        "relation_guided.epochs": 30,
        "relation_guided.weight": 3.0,
        "controls": ("base", "base_from_teacher", "teacher_knn", "teacher_probe"),
    }
    for path, value in values.items():
        put(config, path, value)


def quick(config: Config, own_data: bool = False) -> None:
    """Shrinks an experiment to seconds, to try its wiring; it measures nothing.

    On the digits, unless the user names `own_data`.
    """
    if config.noise.name == "file":
        put(config, "noise", choice("pair"))
    elif "mapping" in config.noise:
        del config.noise["mapping"]
    dtype = {"dtype": config.encoder.dtype} if "dtype" in config.encoder else {}
    values = {
        "encoder": choice("cnn", widths=(8, 16), **dtype),
        "relation_modeling.ssl.projection": 32,
        "relation_modeling.ssl.hidden": 16,
        "relation_modeling.knn.k": 20,
    }
    for stage, augmentation, epochs in (("modeling", "digits", 2), ("guided", "shift", 3)):
        values |= {
            f"relation_{stage}.augmentation": choice(augmentation),
            f"relation_{stage}.optimizer.warmup_epochs": 0.0,
            f"relation_{stage}.epochs": epochs,
            f"relation_{stage}.batch_size": 64,
        }
    if not own_data:
        put(config, "data", digits().data)
    for path, value in values.items():
        put(config, path, value)


SIZES = ("small", "quick")


def experiment(base: Config, arg: str = "", **values: Any) -> Config:
    """A config from a base, what the experiment sets, and the argument that a user gives.

    Args:
      base: `digits()`, `cifar("cifar10")`, or another config.
      arg: `"quick,rate=0.2,relation_guided.optimizer.momentum=0.8"`: sizes out of `SIZES`, then
        names and values, see `overrides`.
      **values: what the experiment sets, by short names.

    Returns:
      The config, in which fields that nobody set are filled in later, by `resolve`.

    Example:
      >>> import rmdnet_jax as rmd
      >>> config = rmd.experiment(rmd.get_config("digits"), "rate=0.2", method="gce")
      >>> config.noise.rate, config.relation_guided.method.name
      (0.2, 'gce')
    """
    given = split(arg)
    config = override(base, values)
    sizes = {name: given.pop(name, "false").lower() for name in SIZES}
    for name, flag in sizes.items():
        if flag not in ("true", "false"):
            raise wrong(name, f"be true or false, got {flag!r}")
    if sizes["small"] == "true":
        small(config)
    if sizes["quick"] == "true":
        named = [path for name, value in given.items() for path in paths(name, value)]
        quick(config, own_data=bool({"data.name", "data.dir"}.intersection(named)))
    return override(config, given)
