"""Suspect labels as tasks for Label Studio, each with the suggested label as a prediction.

Source: https://labelstud.io/guide/predictions, "JSON format for pre-annotations".
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from rmdnet_jax import files
from rmdnet_jax.app.audit.page import suspects
from rmdnet_jax.errors import wrong
from rmdnet_jax.labels.audit import LabelErrors

LOCAL = "/data/local-files/?d="  # where Label Studio serves files of its document root


def write(
    path: pathlib.Path,
    found: LabelErrors,
    names: Sequence[str] | None = None,
    root: str | None = None,
    texts: Sequence[str] | None = None,
) -> None:
    """Writes the suspects as tasks, the most suspect first.

    A task has `data` (`image` or `text`, and `index`, `given`, `probability`) and a prediction:
    the suggested label, its confidence as the score. `config` is the labelling setup it fits.

    Args:
      path: the `.json` file, which is replaced.
      found: what `find_label_errors` found in `n` examples.
      names: [n], file names or URLs of pictures.
      root: the folder of those files below Label Studio's document root; None: URLs as they are.
      texts: [n], the words to show instead of pictures.

    Raises:
      UserError: an argument has another length, or the file cannot be written.
    """
    for name, values in (("names", names), ("texts", texts)):
        if values is not None and len(values) != len(found.table):
            raise wrong(name, f"have one for each of the {len(found.table)} labels")
    rows = found.table.iloc[suspects(found)].to_dict("records")
    files.write_json(path, [_task(row, names, root, texts) for row in rows])


def config(found: LabelErrors, kind: str = "image") -> str:
    """The labelling setup of the tasks, `kind` image or text: to paste into Label Studio."""
    choices = "".join(f"    <Choice value={quoteattr(str(x))}/>\n" for x in found.classes.tolist())
    return (
        f'<View>\n  <{kind.title()} name="{kind}" value="${kind}"/>\n'
        f'  <Choices name="label" toName="{kind}" choice="single">\n{choices}  </Choices>\n</View>\n'
    )


def _task(
    row: dict[Any, Any],
    names: Sequence[str] | None,
    root: str | None,
    texts: Sequence[str] | None,
) -> dict[str, Any]:
    """One task; where there is neither picture nor text, the row's number is the text."""
    index = int(row["index"])
    kind = "image" if texts is None and names is not None else "text"
    if texts is not None:
        shown = str(texts[index])
    elif names is not None:
        shown = str(names[index]) if root is None else _served(root, str(names[index]))
    else:
        shown = f"row {index}"
    result = {
        "id": f"label-{index}",
        "from_name": "label",
        "to_name": kind,
        "type": "choices",
        "value": {"choices": [str(row["suggested"])]},
    }
    return {
        "data": {
            kind: shown,
            "index": index,
            "given": str(row["given"]),
            "probability": round(float(row["probability"]), 4),
        },
        "predictions": [
            {
                "model_version": "rmdnet_jax",
                "score": round(float(row["confidence"]), 4),
                "result": [result],
            }
        ],
    }


def _served(root: str, name: str) -> str:
    """The address at which Label Studio serves a file below its document root."""
    return LOCAL + quote((pathlib.PurePosixPath(root) / name).as_posix())
