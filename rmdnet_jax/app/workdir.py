"""The directory of a run: refused if it holds one of another config or of other data.

`config.json` and `data.json` state what is in it. A config's fields have kinds. Content must be the
same. A place may move, where what lies there has the same content. Some fields change no number. An
extension adds to a run, where it ends exactly as one that had it from the start.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

from rmdnet_jax.app import schema
from rmdnet_jax.app.resolve import build, resolve
from rmdnet_jax.app.schema import flatten
from rmdnet_jax.errors import UserError, wrong
from rmdnet_jax.files import write_json, writing

GIVEN = "given"  # the entry of config.json that holds what the user gave: it may differ
ABSENT = "absent"
SECTIONS = {"seed", "data", "noise", "encoder", "relation_modeling", "relation_guided"}
PLACES = ("data.dir", "data.labels", "noise.path", "teacher")  # data.json knows what lies there
HARMLESS = ("audit", "checkpoint_steps", "data.pipeline", "data.workers", "tensorboard")


def _more_epochs(there: Any, here: Any, config: dict) -> str:
    """Why a run cannot have more epochs; "" where it can."""
    guided = config["relation_guided"]
    if there == 0 and isinstance(here, int):
        return ""  # a teacher alone, so far
    if not isinstance(there, int) or here < there:
        return "epochs can be added, not taken away"
    if guided["optimizer"]["schedule"] == "cosine":
        return "its learning rate follows a cosine over all epochs"
    if "rounds" in " ".join((guided["targets"], *config["controls"])):
        return "its labels are corrected by the student as it was"
    method = build("relation_guided.method", config, 2, 2)
    return "its method looks at all examples between epochs" if method.refresh else ""


def _more_controls(there: Any, here: Any, config: dict) -> str:
    """Why a run cannot have other controls; "" where it can."""
    known = isinstance(there, list) and {*map(str, there)} <= {*here}
    return "" if known else "controls can be added, not taken away"


EXTENSIONS: dict[str, Callable[[Any, Any, dict], str]] = {
    "controls": _more_controls,
    "relation_guided.epochs": _more_epochs,
    "relation_modeling.epochs": lambda *_: "its students learn from the teacher as it was",
}


def check(workdir: pathlib.Path, content: dict, what: str = "config") -> list[str]:
    """Raises `UserError` unless `workdir` is new, or holds a run of this very config, or data.

    Returns:
      The fields by which the config extends the run that is there.
    """
    path = workdir / f"{what}.json"
    try:
        if workdir.exists() and not workdir.is_dir():
            raise wrong("workdir", f"be a directory, got the file {str(workdir)!r}")
        if not path.exists():
            if (workdir / "checkpoints").is_dir():  # nobody knows what they are of
                lost = f"workdir {workdir} holds checkpoints and no {path.name}: put it back"
                raise UserError(f"{lost}, or choose another workdir")
            return []
    except OSError as error:  # a name that is too long
        raise wrong("workdir", f"be a path that can be used, got {error.strerror}") from None
    there = read(path)
    if what == "config":
        there = _filled(there)
    here = json.loads(json.dumps(content))
    extended, rows = _compared(flatten(there), flatten(here), here, what)
    if rows:
        differs = f"holds a run whose {what} differs ({'; '.join(rows)})"
        raise UserError(f"workdir {workdir} {differs}; choose another workdir")
    return extended


def read(path: pathlib.Path) -> dict:
    """What a file of a run states; raises `UserError` where it is damaged or of another kind."""
    try:
        there = json.loads(path.read_text())
        if (
            not isinstance(there, dict)
            or not there
            or (path.stem == "config" and SECTIONS - there.keys())
        ):
            raise ValueError("it holds no settings")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); choose another workdir") from None
    there.pop(GIVEN, None)
    return there


def _filled(there: dict) -> dict:
    """A config with the defaults of fields that its version did not know."""
    try:
        return json.loads(json.dumps(resolve(schema.made(there)).to_dict()))
    except (UserError, AttributeError, KeyError, TypeError, ValueError):
        return there  # the difference is told field by field


def _compared(there: dict, here: dict, config: dict, what: str) -> tuple[list[str], list[str]]:
    """The fields that extend a run, and the lines on those by which it is another one."""
    extended, rows = [], []
    for name in sorted(there | here):
        a, b, why = there.get(name, ABSENT), here.get(name, ABSENT), ""
        if a == b or (what == "data" and (name not in there or (name, a) == ("teacher", None))):
            continue  # by a version that did not look; a run that needed no teacher so far
        if what == "config":
            moved = name in PLACES and isinstance(a, str) and bool(a) == bool(b)
            if name in HARMLESS or (moved and there.get("data.name") != "arrays"):
                continue
            if name in EXTENSIONS and not (why := EXTENSIONS[name](a, b, config)):
                extended.append(name)
                continue
        rows.append(f"{name} is {a} there, {b} here" + (f": {why}" if why else ""))
    return extended, rows


def create(workdir: pathlib.Path, **contents: dict) -> None:
    """Makes the directory and states each of `contents` as `{name}.json`."""
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_json(workdir / f"{name}.json", content)
