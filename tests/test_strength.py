"""`weight=auto`: K grows with the accuracy on the labels learnt beyond what is right of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same, tiny
from test_training import begin, made_of

from rmdnet_jax import experiment as preset
from rmdnet_jax.app import experiment, learning
from rmdnet_jax.app.arms import LARGEST, arms
from rmdnet_jax.app.correct import Corrected
from rmdnet_jax.app.presets import digits
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.teacher import Teacher
from rmdnet_jax.errors import UserError
from rmdnet_jax.training import steps
from rmdnet_jax.training.objectives import GROWTH, KEPT


def guided(tmp_path, rate, **values):
    """A stage whose graph says that this share of labels is wrong."""
    values = {"weight": "auto", "relation_guided.teacher_features": "stored", **values}
    made = made_of(tmp_path, **values)
    features = np.random.default_rng(0).normal(size=(len(made.given), 8)).astype(np.float32)
    teacher = Teacher(features, None, None, {}, {})
    wrong = {"given": rate, "propagated": rate}
    told = {"wrong": wrong, "noise_rate": rate, "noise_low": rate, "noise_high": rate}
    found = Corrected(np.eye(10)[made.given], {**told, "in_doubt": False}, np.eye(10))
    arm = made.arms[0]
    assert (arm.weight, arm.auto) == (LARGEST, True)
    return learning.stage(made, learning.learner(made), arm, teacher, found)


def walked(stage, count):
    """Each step's sums of metrics, and the state after them."""
    state, told = begin(stage), []
    for number in range(count):
        before = state.totals if number % stage.pipeline.steps_per_epoch else {}
        frozen = stage.objective.frozen
        state, _ = steps.step(stage, state, frozen, stage.pipeline.batch(number), stage.key)
        told.append({name: float(x - before.get(name, 0)) for name, x in state.totals.items()})
    return state, told


def test_k_is_the_formula_of_the_running_accuracy(tmp_path):
    stage, accuracy, share = guided(tmp_path, 0.97), 0.0, 0.0
    _, told = walked(stage, 8)
    ks = []
    for found in told:
        accuracy = KEPT * accuracy + (1 - KEPT) * found["train_accuracy_given"]
        share = min(max(share + GROWTH * (accuracy - 0.03), 0), 1)
        ks.append(LARGEST * share)
        assert found["weight"] == pytest.approx(ks[-1], abs=1e-3)
    assert ks[0] == 0  # from below the limit
    assert ks[-1] > 0  # to above it


def test_below_the_limit_students_are_those_of_the_method_alone(tmp_path):
    one, _ = walked(guided(tmp_path / "auto", 0.0), 5)
    made = made_of(tmp_path / "zero", weight=0.0)
    alone = learning.stage(made, learning.learner(made), made.arms[0])
    two, _ = walked(alone, 5)
    for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(two.variables)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_methods_memory_is_refreshed_within(tmp_path):
    stage = guided(tmp_path, 0.4, method="co_teaching")
    state = begin(stage)
    memory = stage.refresh(state.variables, jax.device_get(state.memory), 1)
    assert len(memory) == 2
    assert 0 <= memory[0] <= 1
    assert memory[1] == jax.device_get(state.memory[1])


def test_auto_is_a_weight_and_nothing_else(tmp_path):
    config = resolve(preset(digits(), "weight=auto,controls=('rmdnet_propagation','base')"))
    assert config.relation_guided.weight == "auto"
    assert [(arm.weight, arm.auto) for arm in arms(config)] == [
        (LARGEST, True), (LARGEST, True), (0.0, False),
    ]  # fmt: skip
    for field in ("relation_guided.mixup", "data.validation"):
        with pytest.raises(UserError, match=r"must be of type float, got 'auto'"):
            resolve(preset(digits(), f"{field}=auto"))
    with pytest.raises(UserError, match=r"relation_guided\.weight must be 'auto' or of type float"):
        resolve(preset(digits(), "weight=much"))


def test_a_run_tells_the_k_that_it_found(tmp_path):
    config = tiny(weight="auto", epochs=3)
    found = experiment.run(config, tmp_path / "one").summary["relation_guided"]
    assert found["settings"]["relation_guided.weight"] == "auto"
    lines = (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()
    last = [row for row in map(json.loads, lines) if row["stage"] == "relation_guided"][-1]
    assert found["weight"] == last["weight"]
    assert found["graph"]["source"] == "graph"
    again = experiment.run(config, tmp_path / "one").summary["relation_guided"]
    assert_same(jnp.asarray(found["weight"]), jnp.asarray(again["weight"]))
