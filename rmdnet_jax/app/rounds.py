"""Rounds: the student's own features correct the labels again, while unseen labels say it helps.

A tenth of the given labels is held out: no round corrects by them or learns them. A student is
judged by how likely it makes them, seen through the noise that the teacher's graph tells. So no
clean label is read, and a student that learnt wrong labels by heart gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rmdnet_jax.app import correct, identity, report
from rmdnet_jax.app.correct import Corrected
from rmdnet_jax.app.setup import Run
from rmdnet_jax.app.teacher import Teacher
from rmdnet_jax.data import resident
from rmdnet_jax.errors import wrong
from rmdnet_jax.evaluation import log_softmax
from rmdnet_jax.training.steps import Stage
from rmdnet_jax.types import Variables

HELD = 0.1  # of the examples, where the run holds out none
LEAST = 20  # labels that judge
EVEN = 0.01  # of the noise is to any class, so that no label is impossible


class Round(NamedTuple):
    """A student and the labels that it learnt."""

    stage: Stage
    variables: Variables
    corrected: Corrected
    evidence: np.ndarray  # float64 [held], log-likelihood of each held-out given label


Fit = Callable[[Run, Corrected, str], tuple[Stage, Variables]]  # the last is the stage's name


def held_out(made: Run) -> Run:
    """The run with its held-out given labels, a tenth where the config holds out none."""
    train, held = made.train, made.held
    if not len(held):
        train, held = resident.split(made.train, HELD, made.config.seed)
    if len(held) < LEAST:
        size = len(train) + len(held)
        least = f"at least {LEAST} labels to judge rounds by, got {len(held)} of {size}"
        raise wrong("data.validation", f"hold out {least}")
    return made._replace(train=train, held=held)


def name(stage: str, number: int) -> str:
    """The stage of an arm's round; 0 learns the labels that the teacher corrects."""
    return f"{stage}_round{number}"


def trained(
    made: Run, teacher: Teacher, stage: str, fit: Fit
) -> tuple[Round, list[dict[str, Any]]]:
    """The last round that was accepted, and what was found of each.

    Args:
      made: with held-out labels, see `held_out`.
      teacher: whose features correct the labels of round 0.
      stage: of the arm.
      fit: trains a student on corrected labels.
    """
    key, own = identity.of_teacher(teacher), made.config.data.validation
    file = correct.NAME if own else "propagated_held_out.npz"
    corrected = correct.corrected(made, teacher.features, key, file)
    report.say(report.propagated(corrected.summary))
    noise = corrected.transition

    def learnt(corrected: Corrected, number: int) -> Round:
        built, variables = fit(made, corrected, name(stage, number))
        logits = made.predict(variables, made.images[0], made.held).logits
        return Round(built, variables, corrected, evidence(logits, made.given[made.held], noise))

    best, told = learnt(corrected, 0), []
    for number in range(1, made.config.relation_guided.rounds + 1):
        features = made.predict(best.variables, made.images[0]).feature
        file = f"propagated_{name(stage, number).replace('/', '_')}.npz"
        corrected = correct.corrected(made, features, identity.of(best.variables), file)
        new = learnt(corrected, number) if corrected.summary["used"] else None
        found = compared(best.evidence, new.evidence) if new else {"accepted": False}
        told.append({**found, "propagation": corrected.summary})
        report.say(report.compared(number, told[-1]))
        if new is None or not found["accepted"]:
            break
        best = new
    return best, told


def evidence(logits: np.ndarray, given: np.ndarray, transition: np.ndarray) -> np.ndarray:
    """`log sum_y p(y | x_i) P(given_i | y)` [n] of logits [n, C] and a noise [C, C]."""
    classes = len(transition)
    noise = (1 - EVEN) * transition + EVEN / classes
    return np.log((np.exp(log_softmax(logits)) * noise[:, given].T).sum(1))


def compared(old: np.ndarray, new: np.ndarray) -> dict[str, Any]:
    """By how much labels [held] became likelier; accepted above one standard error."""
    gain = new - old
    mean, error = float(gain.mean()), float(gain.std(ddof=1) / len(gain) ** 0.5)
    return {
        "evidence": float(new.mean()),
        "gain": mean,
        "standard_error": error,
        "accepted": mean > error,
    }
