"""Configs by file or by name, with the argument after the colon and further values."""

from __future__ import annotations

import contextlib
import difflib
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

import rmdnet_jax
from rmdnet_jax.app.overrides import override, paths, split
from rmdnet_jax.app.schema import TABLES, Config, flatten
from rmdnet_jax.errors import UserError, first_line
from rmdnet_jax.files import place


def presets() -> dict[str, pathlib.Path]:
    """The configs that come with the package, by name."""
    here = pathlib.Path(rmdnet_jax.__file__).resolve().parent
    places = (here / "configs", here.parent / "configs")  # in a wheel; in a clone
    folder = next((place for place in places if place.is_dir()), places[0])
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}


def get_config(text: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config that a text names, with values set.

    Args:
      text: a preset's name or a file, and perhaps an argument: `digits`, `digits:rate=0.2`,
        `configs/cifar10_sym.py:small`, `/home/me/mine.py`. A file defines
        `get_config(arg: str) -> Config`.
      overrides: dotted or short names and their values, `{"noise.rate": 0.2}`.

    Returns:
      The config; fields that nobody set are filled in when it is run.

    Raises:
      UserError: no such preset or file, a file that cannot be read, an unknown field or value.

    Example:
      >>> import rmdnet_jax as rmd
      >>> config = rmd.get_config("digits:rate=0.2", {"method": "elr"})
      >>> config.noise.rate, config.relation_guided.method.name
      (0.2, 'elr')
    """
    name, _, arg = text.partition(":")
    module = module_of(name)
    try:
        config = module["get_config"](arg)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"config {name!r} failed: {_told(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"config {name!r}: get_config must return a ConfigDict, got {config!r:.60}")
    config, values = whole(config, f"config {name!r}"), overrides or {}
    return override(override(config, values), kept(arg, values))


def whole(config: Config, what: str) -> Config:
    """The config, a copy; raises `UserError` where a section or a choice is missing.

    Fields that are missing in a section take their defaults, see `resolve`.
    """
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        return override(config, {})
    flat = flatten(config.to_dict())
    missing = next((path for path in TABLES if f"{path}.name" not in flat), "")
    got = f", got no field {missing}.name" if missing else ""
    raise UserError(f"{what} must be like what get_config gives{got}")


def kept(arg: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that an argument sets of choices that values make anew: they are set again.

    So it does not matter whether a field stands after the colon or beside the new choice.
    """
    new = {path for name, value in values.items() for path in paths(name, value)}
    said = {path: v for name, value in split(arg).items() for path, v in paths(name, value).items()}
    choices = {path.rpartition(".")[0] for path in new if path.endswith(".name")} & set(TABLES)
    return {p: v for p, v in said.items() if p not in new and p.rpartition(".")[0] in choices}


def module_of(name: str) -> dict[str, Any]:
    """What a config's file defines."""
    known = presets()
    path = known.get(name) or place(name, "config")
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(
            f"config must be a file or a preset, got {name!r}: {hint}presets: {', '.join(known)}"
        )
    try:
        module = runpy.run_path(str(path))
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"config {name!r} cannot be read: {_told(error)}") from error
    if not callable(module.get("get_config")):
        raise UserError(f"config {name!r} must define get_config(arg)")
    return module


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
