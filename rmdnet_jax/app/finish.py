"""What a run leaves when its arms are trained: the student, figures, suspects, an audit."""

from __future__ import annotations

import pathlib

import numpy as np

from rmdnet_jax import files, sharding
from rmdnet_jax.app import figures, report, rounds
from rmdnet_jax.app.arms import method_title, title
from rmdnet_jax.app.audit import outputs, words
from rmdnet_jax.app.audit import run as audits
from rmdnet_jax.app.correct import Corrected
from rmdnet_jax.app.schema import flatten
from rmdnet_jax.app.setup import Run
from rmdnet_jax.app.student import CUSTOM, FILE, Student
from rmdnet_jax.app.teacher import Teacher
from rmdnet_jax.labels.audit import find_label_errors
from rmdnet_jax.types import Variables

SUMMARY = "summary.json"
DRAWN = 200  # examples in the figure of relations


def end(
    made: Run,
    summary: dict,
    teacher: Teacher | None,
    corrected: Corrected | None,
    students: dict[str, Variables | None],
    classes: tuple,
) -> Student:
    """Writes what a run leaves; with its summary it is finished, an audit comes behind."""
    trained = {name: student for name, student in students.items() if student is not None}
    draw(made, teacher, trained)
    student = student_of(made, trained[made.arms[0].name], classes or made.source.names)
    student.save(made.workdir / FILE)
    if corrected and corrected.summary["used"]:
        suspects(made, corrected.targets)
    made.owner.check()
    files.write_json(made.workdir / SUMMARY, summary)
    report.say(report.table(summary))
    if watched := report.below(summary, len(made.held)):
        report.say(watched)
    if made.config.audit and teacher:
        audit(made, teacher)
    return student


def complete(workdir: pathlib.Path) -> str:
    """What a run that has ended before has left."""
    names = (FILE, "teacher", "figures", outputs.SUSPECTS, "audit", SUMMARY)
    left = ", ".join(name for name in names if (workdir / name).exists())
    return f"done   {workdir} has ended, with {left}: only what was deleted is made again"


def student_of(made: Run, variables: Variables, classes: tuple) -> Student:
    """The trained student with all that it takes to use it."""
    described = made.config.encoder.to_dict()
    described.pop("norm_group", None)  # of training alone
    return Student(
        encoder=made.encoder,
        variables=variables,
        classes=classes,
        mean=made.statistics[0],
        std=made.statistics[1],
        image_shape=made.source.images.shape[1:],
        description=CUSTOM if described["name"] == CUSTOM["name"] else described,
    )


def draw(made: Run, teacher: Teacher | None, students: dict[str, Variables]) -> None:
    """The figures. Every process predicts, the main one draws."""
    labels = made.source.labels if made.known else made.given
    rows = made.train[of_each_class(labels[made.train])]
    features = {"teacher": teacher.features[rows]} if teacher else {}
    images = made.source.images[rows]
    method = method_title(flatten(made.config.to_dict()))
    for arm, variables in students.items():
        features[title(method, arm)] = made.predict(variables, images).feature
    if sharding.is_main():
        place, edge = made.workdir / "figures", made.config.relation_guided.edge
        titles = {arm.stage: title(method, arm.name) for arm in made.arms if arm.stage}
        titles |= {
            rounds.name(arm.stage, number): f"{title(method, arm.name)}, {number}"
            for arm in made.arms
            if arm.targets == "rounds"
            for number in range(made.config.relation_guided.rounds + 1)
        }
        figures.curves(made.writer.metrics.all, titles, place / "accuracy.png")
        temperature = edge.get("student_temperature", 0.1)
        figures.relations(features, labels[rows], temperature, place / "relations.png")


def of_each_class(labels: np.ndarray) -> np.ndarray:
    """Rows of at most `DRAWN` examples, sorted by class, as many of each class as can be."""
    order = np.argsort(labels, kind="stable")
    ranks = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    rows = order[ranks < max(1, DRAWN // len(np.unique(labels)))]
    return rows[:: -(-len(rows) // DRAWN)]


def suspects(made: Run, targets: np.ndarray) -> None:
    """Writes the labels that were corrected, the least likely first, as an audit writes them."""
    import pandas

    label, names = targets.argmax(1), np.array(made.source.names)
    rows = np.flatnonzero(label != made.given)
    probability = targets[rows, made.given[rows]]
    rows = rows[np.argsort(probability, kind="stable")]
    named = made.source.files or [""] * len(made.given)
    table = pandas.DataFrame({
        "index": rows,
        "name": [named[i] for i in rows],
        "is_label_issue": True,
        "label_score": targets[rows, made.given[rows]],
        "given_label": names[made.given[rows]],
        "predicted_label": names[label[rows]],
        "confidence": targets[rows].max(1),
        "decision": "change",
    })  # fmt: skip
    files.write_text(made.workdir / outputs.SUSPECTS, outputs.text(table))


def check_audit(made: Run) -> None:
    """Refuses a workdir in which there is no place for an audit."""
    outputs.refuse(made.workdir / "audit", force=True, argument="audit")


def audit(made: Run, teacher: Teacher) -> None:
    """Writes the audit of a run's labels as `audit/`, from its main process."""
    if not sharding.is_main():
        return
    out = made.workdir / "audit"
    read = audits.of(made, teacher.features, made.workdir)
    with outputs.folder(out) as place:
        found = find_label_errors(
            read.features, read.labels, seed=made.config.seed, in_doubt=read.in_doubt
        )
        found = outputs.keep_reviewed(found, read.reviewed)
        outputs.write(place, found, read, ["rmdnet", "audit", str(made.workdir)])
    report.say(words.told(found, read, 0))
    report.say(f"audit     {out}: open {out / outputs.PAGE} in a browser")
