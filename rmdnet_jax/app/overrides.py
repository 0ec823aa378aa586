"""The one language in which a value is set: in a config's argument, a flag, a sweep and Python.

`rate=0.2,inclusive,controls=('base','teacher_knn')`: names and values, commas between them, a bare
name for `true`. A value takes the type of what it replaces.
"""

from __future__ import annotations

import ast
import difflib
import numbers
import pathlib
from collections.abc import Mapping
from typing import Any

from rmdnet_jax.app import schema
from rmdnet_jax.app.schema import Config
from rmdnet_jax.errors import UserError, one_of, wrong
from rmdnet_jax.files import place
from rmdnet_jax.labels.files import TABLES

AUTO = ("relation_guided.weight",)  # numbers that may also be `auto`
WORDS = ("auto", "estimate", "mixture")  # a field that holds one of these takes a number as well
# Fields of a preset's choice that another entry keeps: heads are as wide as the preset's encoder.
KEPT = {"relation_modeling.ssl": ("projection", "hidden"), "encoder": ("dtype",)}


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of a config with values set, by dotted or short names; values are text or Python's.

    Choices are made before their fields are set, whatever the order. A new choice begins with its
    own defaults.
    """
    config = schema.locked(schema.made(config.to_dict()))
    full = dict(item for name, value in values.items() for item in paths(name, value).items())
    for path in sorted(full, key=lambda path: not path.endswith(".name")):
        _set(config, path, full[path])
    return config


def paths(name: str, value: Any) -> dict[str, Any]:
    """Dotted paths and values of what a name, short or not, sets."""
    if not isinstance(name, str):
        raise UserError(f"a field is named by text, got {name!r}")
    if name == "batch_size":
        return {f"{stage}.batch_size": value for stage in ("relation_modeling", "relation_guided")}
    if name != "data":
        return {schema.SHORT.get(name, name): value}
    if str(value).endswith(".npz"):
        return {"data.name": "npz", "data.dir": value}
    if str(value).endswith(TABLES):
        return {"data.name": "table", "data.dir": value}
    if "/" in str(value) and place(str(value), name).is_dir():
        return {"data.name": "folder", "data.dir": value}
    return {"data.name": value}


def _set(config: Config, path: str, value: Any) -> None:
    """Sets one field, checked against the schema."""
    node, _, field = path.rpartition(".")
    if node not in schema.TABLES:
        known = schema.flatten(schema.digits().to_dict())
        if path not in known or any(path.startswith(f"{choice}.") for choice in schema.TABLES):
            raise _unknown(path, [*(name for name in known), *schema.SHORT])
        schema.put(config, path, typed(path, value, known[path]))
        return
    chosen = schema.at(config, node)
    if field == "name":
        one_of(path, value, schema.TABLES[node])
        if value != chosen.name:
            own = schema.fields(node, value)
            kept = {key: chosen[key] for key in KEPT.get(node, ()) if key in chosen and key in own}
            schema.put(config, node, schema.choice(value, **kept))
            schema.at(config, node).unlock()
        return
    own = schema.fields(node, chosen.name)
    if field not in own:
        near = difflib.get_close_matches(field, own, n=1, cutoff=0.6)
        hint = f"did you mean {node}.{near[0]}? " if near else ""
        text = f"{hint}{chosen.name} has {', '.join(['name', *own])}"
        raise UserError(f"unknown field {path!r}: {text}")
    if isinstance(value, str) and value == "auto" and not isinstance(own[field], str):
        if field in chosen:
            del chosen[field]
    else:
        schema.put(config, path, typed(path, value, own[field]))


def _unknown(path: str, known: list[str]) -> UserError:
    known = [*known, "batch_size", "data", "quick", "small"]
    inside = [name for name in known if f".{path}." in f".{name}."]
    close = difflib.get_close_matches(path, known, n=3, cutoff=0.6 if "." in path else 0.5)
    near = inside[:4] or close
    beside = [name for name in known if name.rpartition(".")[0] == path.rpartition(".")[0]]
    sections = dict.fromkeys(name.partition(".")[0] for name in known)
    others = ", ".join(beside or sections)
    more = " or others" if len(inside) > 4 else ""
    hint = f"did you mean {' or '.join(near)}{more}?" if near else f"known: {others}"
    return UserError(f"unknown field {path!r}: {hint}")


def split(text: str) -> dict[str, str]:
    """`"a=1,b=(2, 3),c"` -> `{"a": "1", "b": "(2, 3)", "c": "true"}`.

    A comma within brackets or quotes belongs to the value.
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += 0 if quote else (letter in "([{") - (letter in ")]}")
        if letter == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    pairs = (part.partition("=") for part in parts if part.strip())
    return {name.strip(): value.strip() if given else "true" for name, given, value in pairs}


def typed(argument: str, value: Any, default: Any) -> Any:
    """`value`, text or of Python, as the type of `default`; an error names `argument`."""
    if isinstance(value, str) and value == "auto" and argument in AUTO:
        return value
    kind = type(default)
    value = str(value) if isinstance(value, pathlib.PurePath) else value
    value = value.tolist() if hasattr(value, "tolist") else value  # of NumPy
    try:
        found = _read(value, default) if isinstance(value, str) else _convert(value, default)
    except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError):
        may = "'auto' or " if argument in AUTO else ""
        raise wrong(argument, f"be {may}of type {kind.__name__}, got {value!r:.80}") from None
    return found


def _read(text: str, default: Any) -> Any:
    """The value that a text means."""
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    if isinstance(default, str):
        return _number(text) if default in WORDS else text
    if isinstance(default, tuple):
        value = text if text.isidentifier() else ast.literal_eval(text)
        return _convert(value if isinstance(value, tuple | list) else (value,), default)
    return type(default)(text)


def _number(text: str) -> int | float | str:
    """The number that a text is, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _convert(value: Any, default: Any) -> Any:
    """A value of Python or NumPy as the type of `default`."""
    if isinstance(default, bool) or isinstance(value, bool):
        if not (isinstance(default, bool) and isinstance(value, bool)):
            raise TypeError
        return value
    if isinstance(default, int) and isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(default, float) and isinstance(value, numbers.Real):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, tuple | list):
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    if isinstance(default, str) and isinstance(value, str):
        return value
    if isinstance(default, str) and default in WORDS and isinstance(value, numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    raise TypeError
