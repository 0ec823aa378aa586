"""Rounds: the student's own features correct the labels again, judged by held-out given labels."""

import json

import numpy as np
import pytest
from conftest import assert_same, tiny

from rmdnet_jax.app import correct, experiment, rounds
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.setup import setup
from rmdnet_jax.errors import UserError

USE = {"relation_guided.propagation.in_doubt": "use"}  # a small teacher's graph is in doubt


def rounded(**values):
    return tiny(targets="rounds", weight=0.0, **USE, **values)


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_evidence_is_that_of_a_slow_loop():
    rng = np.random.default_rng(0)
    logits, given = rng.normal(size=(7, 3)), rng.integers(0, 3, 7)
    noise = rng.dirichlet(np.ones(3), 3)
    noise[0] = 1, 0, 0  # a label that cannot be does not make the evidence infinite
    found = rounds.evidence(logits, given, noise)
    for z, label, value in zip(logits, given, found):
        p = np.exp(z) / np.exp(z).sum()
        seen = sum(p[y] * (0.99 * noise[y, label] + 0.01 / 3) for y in range(3))
        assert value == pytest.approx(np.log(seen))


def test_a_round_is_accepted_above_one_standard_error():
    old, gain = np.zeros(400), np.random.default_rng(1).normal(size=400)
    gain -= gain.mean()
    error = gain.std(ddof=1) / 20
    for mean, accepted in ((1.1 * error, True), (0.9 * error, False), (-error, False)):
        told = rounds.compared(old, old + gain + mean)
        assert told["accepted"] is accepted
        assert told["gain"] == pytest.approx(mean)
        assert told["standard_error"] == pytest.approx(error)


def test_no_round_sees_a_held_out_label(tmp_path):
    """Whatever they are: the students and their labels are the same bit for bit."""
    made = setup(resolve(rounded()), tmp_path / "setup")
    inner = rounds.held_out(made)
    assert len(inner.held) == round(0.1 * len(made.train))
    assert sorted([*inner.held, *inner.train]) == sorted(made.train)
    own = setup(resolve(rounded(validation=0.25)), tmp_path / "own")
    kept = rounds.held_out(own)  # those that the config holds out
    assert_same((kept.train, kept.held), (own.train, own.held))
    few = setup(resolve(rounded(validation=0.05)), tmp_path / "few")
    with pytest.raises(UserError, match=r"^data\.validation must hold out at least 20 labels"):
        rounds.held_out(few)

    def run(place, change):
        labels = np.zeros(made.source.total, np.int32)
        labels[made.source.rows] = made.given
        held = made.source.rows[inner.held]
        labels[held] = (labels[held] + change) % 10
        np.savez(tmp_path / f"{place}.npz", labels=labels)
        values = {"noise": "file", "path": str(tmp_path / f"{place}.npz"), "field": "labels"}
        experiment.run(rounded(**values), tmp_path / place)
        assert not (tmp_path / place / "propagated.npz").exists()  # of all labels: nobody learns it
        targets = []
        for name in ("propagated_held_out", "propagated_relation_guided_round1"):
            with np.load(tmp_path / place / f"{name}.npz") as file:
                targets.append(file["targets"])
        rows = [r for r in records(tmp_path / place) if r["stage"] == "relation_guided_round0"]
        return targets, [(r["loss"], r["test_accuracy"]) for r in rows]

    assert_same(run("one", 0), run("two", 3))


def test_a_run_of_rounds_tells_what_became_of_each(tmp_path):
    summary = experiment.run(rounded(controls=("rounds", "propagation")), tmp_path / "run").summary
    own = summary["relation_guided"]
    assert own["arm"] == "rounds"
    told = own["rounds"]
    assert 1 <= len(told) <= 2
    assert all(found["accepted"] for found in told[:-1])  # one that is not accepted ends them
    files = {path.name for path in (tmp_path / "run").glob("propagated*.npz")}
    numbers = range(1, len(told) + 1)
    names = {f"propagated_relation_guided_round{number}.npz" for number in numbers}
    assert files == {"propagated.npz", "propagated_held_out.npz", *names}
    assert own["settings"]["relation_guided.rounds"] == 2
    assert "rounds" not in summary["controls"]["propagation"]
    number = sum(found["accepted"] for found in told)
    stage = f"relation_guided_round{number}"
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    last = [line for line in lines if line["stage"] == stage][-1]
    assert own["test_accuracy"]["last"] == last["test_accuracy"]


def test_rounds_can_be_a_control_with_relations(tmp_path):
    config = tiny(controls=("rmdnet_rounds",), **USE)
    found = experiment.run(config, tmp_path).summary["controls"]["rmdnet_rounds"]
    assert found["settings"]["relation_guided.targets"] == "rounds"
    assert found["settings"]["relation_guided.weight"] == config.relation_guided.weight


def test_rounds_end_where_the_students_graph_is_in_doubt(tmp_path, monkeypatch):
    corrected = correct.corrected

    def doubting(made, features, teacher, name=correct.NAME):
        found = corrected(made, features, teacher, name)
        return found._replace(summary={**found.summary, "used": "round" not in name})

    monkeypatch.setattr(correct, "corrected", doubting)
    told = experiment.run(rounded(), tmp_path).summary["relation_guided"]["rounds"]
    assert [found["accepted"] for found in told] == [False]
    assert "gain" not in told[0]
    assert not (tmp_path / "checkpoints" / "relation_guided_round1").exists()


def test_more_epochs_do_not_continue_rounds(tmp_path):
    values = {"relation_guided.optimizer.schedule": "constant"}
    experiment.run(rounded(**values), tmp_path)
    with pytest.raises(UserError, match=r"its labels are corrected by the student as it was"):
        experiment.run(rounded(**values, epochs=3), tmp_path)
    values |= {"weight": 0.0, "controls": ("rounds",), **USE}
    experiment.run(tiny(**values), tmp_path / "control")
    with pytest.raises(UserError, match=r"its labels are corrected by the student as it was"):
        experiment.run(tiny(**values, epochs=3), tmp_path / "control")
