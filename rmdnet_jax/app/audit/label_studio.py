"""Suspect labels as tasks for Label Studio, each with the suggested label as a prediction.

Source: https://labelstud.io/guide/predictions, "JSON format for pre-annotations".
"""

from __future__ import annotations

import mimetypes
import pathlib
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from rmdnet_jax import files
from rmdnet_jax.app.audit.page import suspects
from rmdnet_jax.labels.audit import LabelErrors

LOCAL = "/data/local-files/?d="  # where Label Studio serves files of its document root


def write(
    path: pathlib.Path,
    found: LabelErrors,
    names: Sequence[str] | None = None,
    root: str | None = None,
    texts: Sequence[str] | None = None,
) -> None:
    """Writes the suspects as tasks, the most suspect first, and beside them the setup they need.

    A task has `data` (`image` or `text`, and `index`, `given`, `probability`) and a prediction:
    the suggested label, its confidence as the score. The setup, an `.xml` of the same name, is
    pasted into Label Studio as the labelling interface.

    Args:
      path: the `.json` file, which is replaced.
      found: what `find_label_errors` found in `n` examples.
      names: [n], file names or URLs of pictures; other names are shown as text.
      root: the folder of those files, as seen from Label Studio's document root; None: names are
        addresses.
      texts: [n], the words to show instead of pictures.

    Raises:
      UserError: the file cannot be written.
    """
    rows = found.table.iloc[suspects(found)].to_dict("records")
    kind, shown = _shown(names, root, texts)
    files.write_json(path, [_task(row, kind, shown(int(row["index"]))) for row in rows])
    files.write_text(path.with_suffix(".xml"), config(found, kind))


def config(found: LabelErrors, kind: str) -> str:
    """The labelling interface for tasks of a `kind`, image or text."""
    classes = [quoteattr(str(label)) for label in found.classes.tolist()]
    choices = "".join(f"    <Choice value={label}/>\n" for label in classes)
    return (
        f'<View>\n  <{kind.title()} name="{kind}" value="${kind}"/>\n'
        f'  <Choices name="label" toName="{kind}" choice="single">\n'
        f"{choices}  </Choices>\n</View>\n"
    )


def _shown(
    names: Sequence[str] | None, root: str | None, texts: Sequence[str] | None
) -> tuple[str, Callable[[int], str]]:
    """Whether tasks show an `image` or a `text`, and which, by index."""
    if texts is not None:
        return "text", lambda index: str(texts[index])
    if names is None:
        return "text", lambda index: f"row {index}"
    if root is not None:
        folder = pathlib.PurePosixPath(root)
        return "image", lambda index: LOCAL + quote((folder / str(names[index])).as_posix())
    kind = mimetypes.guess_type(str(names[0]))[0] or ""
    return "image" if kind.startswith("image/") else "text", lambda index: str(names[index])


def _task(row: dict[Any, Any], kind: str, shown: str) -> dict[str, Any]:
    index = int(row["index"])
    result = {
        "id": f"label-{index}",
        "from_name": "label",
        "to_name": kind,
        "type": "choices",
        "value": {"choices": [str(row["suggested"])]},
    }
    prediction = {
        "model_version": "rmdnet_jax",
        "score": round(float(row["confidence"]), 4),
        "result": [result],
    }
    known = {"given": str(row["given"]), "probability": round(float(row["probability"]), 4)}
    return {"data": {kind: shown, "index": index, **known}, "predictions": [prediction]}
