"""The one language in which a value is set: in a config's argument, a flag, a sweep and Python.

`rate=0.2,inclusive,controls=('base','teacher_knn')`: names and values, commas between them, a bare
name for `true`. A value takes the type of what it replaces.
"""

from __future__ import annotations

import ast
import numbers
from typing import Any

from rmdnet_jax.errors import UserError, wrong

WORDS = ("auto", "estimate")  # a field that holds one of these takes a number as well


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
    """`value`, text or of Python, as the type of `default`; raises `UserError` naming `argument`."""
    kind = type(default)
    try:
        found = _read(value, default) if isinstance(value, str) else _convert(value, default)
    except (ValueError, SyntaxError, TypeError):
        raise wrong(argument, f"be of type {kind.__name__}, got {value!r}") from None
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
        value = ast.literal_eval(text)
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


def nested(path: str) -> list[str]:
    """`"relation_guided.method.name"` -> its parts; raises `UserError` where one is empty."""
    parts = path.split(".")
    if not all(parts):
        raise UserError(f"a field is written as in noise.rate, got {path!r}")
    return parts
