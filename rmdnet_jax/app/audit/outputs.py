"""What an audit leaves: a folder of tables, a graph and a page, written whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pathlib
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

import rmdnet_jax
from rmdnet_jax import files
from rmdnet_jax.app import lock
from rmdnet_jax.app.audit.exchange import begun, exchange, tidy
from rmdnet_jax.app.audit.inputs import Inputs
from rmdnet_jax.errors import UserError, wrong
from rmdnet_jax.labels.audit import LabelErrors
from rmdnet_jax.labels.files import harmless
from rmdnet_jax.training import stop

if TYPE_CHECKING:
    from pandas import DataFrame
    from scipy.sparse import csr_matrix

SUSPECTS, LABELS, PAGE, SUMMARY = (
    "suspects.csv", "corrected_labels.csv", "report.html", "summary.json"
)  # fmt: skip
# Datalab's names of columns.
DATALAB = {"given": "given_label", "suggested": "predicted_label", "probability": "label_score"}
WITNESSES = ("vote", "target", "probe", "corrected_probe", "margin", "model")
FIRST = ("index", "name", "is_label_issue", "label_score", "given_label", "predicted_label")


def refuse(
    out: pathlib.Path, force: bool, inputs: Sequence[str] = (), argument: str = "--out"
) -> None:
    """Raises `UserError` where `out` holds what must stay; writes nothing."""
    for path in (files.place(text) for text in inputs if text):
        if path.resolve().is_relative_to(out.resolve()):
            raise wrong(argument, f"not hold the inputs, got {str(out)!r} with {path.name!r} in it")
    if not out.exists():
        return
    if not out.is_dir():
        raise wrong(argument, f"be a folder or a .csv file, got the file {str(out)!r}")
    if not any(out.iterdir()):
        return
    if not all((out / name).is_file() for name in (SUSPECTS, LABELS, PAGE, SUMMARY)):
        raise wrong(argument, f"be a new folder, got {str(out)!r}, which holds other files")
    if not force:
        raise wrong(argument, f"be a new folder, got an audit in {str(out)!r}: --force replaces it")


@contextlib.contextmanager
def folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new hidden folder, which becomes `out` at the end, or leaves no trace.

    Where `out` is there, its files of the same names are replaced together and all others stay.
    """
    place, there = out.resolve(), out.is_dir()
    part = (place if there else place.parent) / f".{place.name}.part{os.getpid()}"
    fresh, held = [path for path in part.parents if not path.exists()], -1
    tidy(place)
    try:
        with files.writing(out):
            held = begun(part)
        yield part
        with files.writing(out):
            exchange(part, place) if there else part.rename(place)
    except UserError as error:  # names the folder that the user knows
        raise UserError(str(error).replace(str(part), str(out))) from None
    finally:
        with stop.handling(lambda number, frame: None):  # `timeout` sends a second signal
            shutil.rmtree(part, ignore_errors=True)
            lock.drop(held)
            with contextlib.suppress(OSError):  # what is not empty has become the answer
                for path in fresh:
                    path.rmdir()


def keep_reviewed(found: LabelErrors, reviewed: dict[int, str]) -> LabelErrors:
    """What was found, but for labels that somebody has reviewed: they are right, and come last.

    The noise is judged on the labels before the review, which takes the most suspect first. What
    witnesses said of a label that the review has changed is void: NaN.
    """
    if not reviewed:
        return found
    rows = [*reviewed]
    numbers = np.searchsorted(found.classes, [*reviewed.values()])
    labels, targets = found.labels.copy(), found.targets.copy()
    labels[rows], targets[rows] = found.classes[numbers], np.eye(len(found.classes))[numbers]
    table = found.table
    place = np.argsort(table["index"].to_numpy())  # of each index in the table
    mine = np.isin(table["index"], rows)
    given, suggested = (table[name].to_numpy(copy=True) for name in ("given", "suggested"))
    old = mine.copy()
    old[place[rows]] = given[place[rows]] != labels[rows]
    given[place[rows]] = suggested[place[rows]] = labels[rows]
    twin = table["duplicate"].to_numpy()
    table = table.assign(
        given=given,
        suggested=suggested,
        probability=np.where(mine, 1, table["probability"]),
        confidence=np.where(mine, 1, table["confidence"]),
        decision=np.where(mine, "reviewed", table["decision"]),
        duplicate=np.where(mine | (given[place[twin]] == given), -1, twin),
    )
    witnesses = [name for name in WITNESSES if name in table]
    table.loc[old, witnesses] = np.nan
    table = table.iloc[np.argsort(mine, kind="stable")].reset_index(drop=True)
    return dataclasses.replace(found, labels=labels, targets=targets, table=table)


def write(place: pathlib.Path, found: LabelErrors, inputs: Inputs, command: list[str]) -> None:
    """Writes everything into a folder.

    Args:
      place: the folder.
      found: what `find_label_errors` found.
      inputs: what it was given.
      command: how to do it again.
    """
    from scipy.sparse import save_npz

    from rmdnet_jax.app.audit import label_studio, page

    suspects = table(found, inputs)
    files.write_text(place / SUSPECTS, text(suspects))
    with files.whole(place / "suspects.parquet") as part:
        suspects.to_parquet(part, index=False)
    files.write_text(place / LABELS, text(corrected(found, inputs.names)))
    with files.whole(place / "knn_graph.npz") as part:
        save_npz(part, graph(found))
    texts = inputs.texts if inputs.images is None else None  # a task shows one of both
    tasks = place / "label_studio.json"
    label_studio.write(tasks, found, inputs.names, inputs.root, texts)
    page.write(
        place / PAGE,
        found,
        names=inputs.names,
        texts=inputs.texts,
        images=inputs.images,
        features=inputs.features,
        clean=inputs.clean,
    )
    files.write_json(place / SUMMARY, summary(found, inputs, command))


def table(found: LabelErrors, inputs: Inputs) -> DataFrame:
    """All examples, the most suspect first, with Datalab's names of columns.

    `is_label_issue` is true where the label is to change, not where it is in doubt. The user's own
    columns stand behind; one whose name is taken is called `NAME (yours)`.
    """
    ours = found.table.rename(columns=DATALAB)
    index = ours["index"].to_numpy()
    ours["is_label_issue"] = (ours["decision"] == "change").to_numpy()
    if inputs.names is not None:
        ours["name"] = np.array(inputs.names, object)[index]
    for name, values in inputs.signals.items():
        ours[name] = values[index]
    first = [name for name in FIRST if name in ours.columns]
    order = [*first, *(name for name in ours.columns if name not in first)]
    ours = ours.reindex(columns=order).reset_index(drop=True)
    if inputs.beside is None:
        return ours
    theirs = inputs.beside.iloc[index].reset_index(drop=True)
    theirs.columns = [f"{x} (yours)" if x in ours.columns else str(x) for x in theirs.columns]
    return ours.join(theirs)


def corrected(found: LabelErrors, names: Sequence[str] | None) -> DataFrame:
    """The labels to train on, in the order that was given."""
    import pandas

    rows = found.table.sort_values("index")
    return pandas.DataFrame(
        {
            "index": rows["index"].to_numpy(),
            "name": [""] * len(rows) if names is None else [*names],
            "given": rows["given"].to_numpy(),
            "label": found.labels,
            "decision": rows["decision"].to_numpy(),
            "confidence": rows["confidence"].to_numpy(),
        }
    )


def text(frame: DataFrame) -> str:
    """A table as CSV that is safe to open in a spreadsheet."""
    return harmless(frame).to_csv(index=False, float_format="%.6g")


def graph(found: LabelErrors) -> csr_matrix:
    """Cosine distances [n, n] to the nearest neighbours, each row in their order; zeros stay.

    cleanlab's Datalab takes it as `knn_graph`.
    """
    from scipy.sparse import csr_matrix

    near, far = np.asarray(found.neighbours), np.maximum(found.distances, 0).astype(np.float64)
    order, (n, k) = np.argsort(far, axis=1, kind="stable"), near.shape
    data, indices = (np.take_along_axis(x, order, 1).ravel() for x in (far, near))
    return csr_matrix((data, indices, np.arange(0, n * k + 1, k)), (n, n))


def summary(found: LabelErrors, inputs: Inputs, command: list[str]) -> dict[str, Any]:
    """What the audit says of all labels, and how it came about, as JSON holds it."""
    names = ("jax", "numpy", "pandas", "scikit-learn", "scipy")
    versions = {name: metadata.version(name) for name in names}
    low, high = found.noise_interval
    return plain(
        {
            "audit": rmdnet_jax.__version__,
            "examples": len(found.table),
            "features": inputs.said,
            "classes": found.classes,
            "noise_rate": found.noise_rate,
            "noise_interval": [low, high],
            "decisions": found.table["decision"].value_counts().to_dict(),
            "in_doubt": found.in_doubt,
            "reason": found.reason,
            "transition": found.transition,
            "transition_error": found.transition_error,
            "quality": found.quality.to_dict("records"),
            "details": found.summary,
            "command": command,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {"python": platform.python_version(), **versions},
        }
    )


def plain(value: Any) -> Any:
    """A value as JSON holds it: no arrays, and nothing that is not a finite number."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)
