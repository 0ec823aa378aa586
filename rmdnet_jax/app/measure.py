"""What students, and a frozen teacher, are worth."""

from __future__ import annotations

from typing import Any

import numpy as np

from rmdnet_jax import evaluation
from rmdnet_jax.app import teacher as teachers
from rmdnet_jax.app.arms import Arm
from rmdnet_jax.app.setup import Run
from rmdnet_jax.app.teacher import Teacher
from rmdnet_jax.training.steps import Stage
from rmdnet_jax.types import Variables


def test(made: Run, variables: Variables, epoch: int, values: dict) -> dict:
    """Stage 2's evaluation: accuracy on the test set, and on held-out noisy labels."""
    found = {}
    if len(made.source.test_labels):
        logits = made.predict(variables, made.images[1]).logits
        found["test_accuracy"] = evaluation.accuracy(logits.argmax(-1), made.source.test_labels)
    if len(made.held):
        logits = made.predict(variables, made.images[0], made.held).logits
        found["validation_accuracy"] = evaluation.accuracy(logits.argmax(-1), made.given[made.held])
    return found


def frozen(made: Run, arm: Arm, teacher: Teacher) -> dict:
    """What the teacher's features alone give with the given labels."""
    if teacher.test_features is None:
        return {"test_accuracy": {"last": None}}
    classify = teachers.nearest(made) if arm.name == "teacher_knn" else evaluation.linear_probe
    bank, labels = teacher.features[made.train], made.given[made.train]
    predicted = classify(bank, labels, teacher.test_features)
    return {"test_accuracy": {"last": evaluation.accuracy(predicted, made.source.test_labels)}}


def measured(
    made: Run, stage: Stage, variables: Variables, labels: np.ndarray, rate: dict | None = None
) -> dict:
    """What a trained student is worth.

    Args:
      made: what the arms share.
      stage: the student's.
      variables: the student's.
      labels: int [n], those that it has learnt.
      rate: their noise rate and where it is from; None: what the records tell of it.
    """
    records = made.writer.metrics.of(stage.name)
    last = records[-1]
    found: dict[str, Any] = {"test_accuracy": evaluation.columns(records)}
    if len(made.source.test_labels):
        logits = made.predict(variables, made.images[1]).logits
        found["nll"] = evaluation.negative_log_likelihood(logits, made.source.test_labels)
        found["ece"] = evaluation.expected_calibration_error(logits, made.source.test_labels)
    if "noise_rate" in last:  # what a method that selects examples took it to be
        true = float(np.mean((labels != made.source.labels)[made.train]))
        estimated = made.config.relation_guided.method.get("rate") == "estimate"
        source = "estimate" if estimated else "given"
        about = rate or {"used": last["noise_rate"], "source": source}
        found["noise_rate"] = {**about, "error": about["used"] - true if made.known else None}
    if "weight" in last:  # K as it was found
        found["weight"] = last["weight"]
    if "validation_accuracy" in last:  # on held-out given labels
        found["validation_accuracy"] = last["validation_accuracy"]
    kinds = ("given", "clean") if made.known else ("given",)
    accuracies = {kind: last.get(f"train_accuracy_{kind}") for kind in kinds}
    speed = made.writer.speed(stage.name)
    return {**found, "train_accuracy": accuracies, "epochs": stage.epochs, **speed}
