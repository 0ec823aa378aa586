"""Features of any model as the teacher: of any dimension, from a file, arrays or a function."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same, tiny
from safetensors.numpy import load_file

import rmdnet_jax as rmd
from rmdnet_jax.app import experiment, features, learning, setup
from rmdnet_jax.app import teacher as teachers
from rmdnet_jax.app.arms import Arm
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.data import sources
from rmdnet_jax.errors import UserError
from rmdnet_jax.training import steps

STORED = "relation_guided.teacher_features"
ARM = Arm("rmdnet", weight=2.0, stage="x")
OWN, DIM = 8, 5  # the student's dimension in `tiny`, and the teacher's
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (300, 8, 8, 1), dtype=np.uint8)
LABELS = np.arange(256) % 4
GIVEN = RNG.normal(size=(256, DIM)).astype(np.float32)


def made_of(tmp_path, **values):
    config = resolve(tiny(**{STORED: "stored", "data.limit": 64, **values}))
    return setup.setup(config, tmp_path / "run")


def stage_of(made, table, arm=ARM):
    known = teachers.Teacher(table, None, None, {}, {})
    return learning.stage(made, learning.learner(made), arm, known)


def begin(stage):
    return steps.initial(stage, stage.objective.frozen, stage.pipeline.batch(0), stage.key)


def records(workdir, stage="relation_guided"):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["stage"] == stage]


def train(workdir, **given):
    values = {"controls": (), "epochs": 1, "relation_guided.batch_size": 64, "weight": 3}
    values |= given.pop("overrides", {})
    return rmd.train(
        "digits:quick", workdir, images=PIXELS[:256], labels=LABELS, overrides=values, **given
    )


# --- another dimension


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def relations(x, others, temperature, own):
    """Shares of cosines among the others, the example itself left out."""
    logits = unit(x) @ unit(others).T / temperature
    return softmax(np.where(own, -np.inf, logits))


@pytest.mark.parametrize("method", ["ce", "co_teaching"])
@pytest.mark.parametrize("anchors", [0, 16])
def test_the_terms_of_another_dimension_are_those_written_out(method, anchors, tmp_path):
    """Edges as the features are; the node term, and anchors, by each peer's own linear map."""
    table = RNG.normal(size=(64, DIM)).astype(np.float32)
    values = {"relation_guided.anchors": anchors, "method": method}
    stage = stage_of(made_of(tmp_path, **values), table)
    state, key = begin(stage), jax.random.key(3)
    batch = stage.prepare(stage.pipeline.batch(0), jax.random.key(2))
    frozen = stage.objective.frozen
    _, (_, _, metrics, _) = stage.objective.loss(
        *state.variables, state.memory, frozen, batch, key, jnp.float32(0)
    )
    target, edge, node = np.float64(table[batch.index]), 0.0, 0.0
    assert len(state.variables.params) == (2 if method == "co_teaching" else 1)
    student = learning.learner(made_of(tmp_path, **values)).student
    for params, stats in zip(*state.variables):
        outputs, _ = student.apply((params, stats), batch.image[0], True)
        s = np.float64(outputs.feature)
        assert params["node"]["kernel"].shape == (OWN, DIM)
        q = s @ np.float64(params["node"]["kernel"])
        node += np.mean(1 - np.sum(unit(q) * unit(target), axis=1))
        others = (target, s), np.eye(64, dtype=bool)
        if anchors:  # the teacher's rows of other examples, for both sides
            draw = jax.random.fold_in(key, 1 << 20)
            index = np.asarray(jax.random.randint(draw, (anchors,), 0, 64))
            bank = np.float64(table[index])
            others = (bank, bank), index == np.asarray(batch.index)[:, None]
        (there, here), own = others
        p = relations(target, there, 0.04, own)
        r = relations(q if anchors else s, here, 0.1, own)
        edge += np.mean(np.sum(p * (np.log(p + 1e-300) - np.log(r + 1e-300)), axis=1))
    np.testing.assert_allclose([metrics["edge"], metrics["node"]], [edge, node], rtol=2e-3)


def test_each_peer_begins_with_its_own_map_within_its_bounds(tmp_path):
    stage = stage_of(made_of(tmp_path, method="co_teaching"), GIVEN[:64])
    one, two = (peer["node"]["kernel"] for peer in begin(stage).variables.params)
    assert np.any(np.asarray(one) != np.asarray(two))
    for kernel in (one, two):
        assert 0.5 / OWN**0.5 < np.abs(kernel).max() <= OWN**-0.5


def test_the_map_is_learnt_and_nothing_else_of_the_start_differs(tmp_path):
    made = made_of(tmp_path)
    stage, base = stage_of(made, GIVEN[:64]), stage_of(made, GIVEN[:64], Arm("base", stage="x"))
    state, plain = begin(stage), begin(base)
    for part in ("encoder", "head"):
        assert_same(state.variables.params[0][part], plain.variables.params[0][part])
    before = np.array(state.variables.params[0]["node"]["kernel"])
    _, call = steps.caller(stage)
    after, _ = call(state, 0, 1)
    assert np.any(before != np.asarray(after.variables.params[0]["node"]["kernel"]))


@pytest.mark.parametrize(
    ("values", "dim", "expected"),
    [
        ({}, OWN, 0),
        ({}, DIM, DIM),
        ({"relation_guided.node.weight": 0}, DIM, 0),
        ({"relation_guided.node.weight": 0, "relation_guided.anchors": 16}, DIM, DIM),
    ],
)
def test_there_is_a_map_only_where_it_is_needed(values, dim, expected, tmp_path):
    made, table = made_of(tmp_path, **values), RNG.normal(size=(64, dim)).astype(np.float32)
    assert teachers.mapped(made, teachers.Teacher(table, None, None, {}, {})) == expected
    for weight in (2.0, 0.0):  # without relations there is none
        params = begin(stage_of(made, table, ARM._replace(weight=weight))).variables.params[0]
        assert ("node" in params) == bool(expected and weight)


def test_without_relations_a_teacher_of_another_dimension_changes_no_bit(tmp_path):
    np.save(tmp_path / "t.npy", RNG.normal(size=(256, DIM)))
    taught = tiny(weight=0.0, controls=("teacher_probe",), teacher=str(tmp_path / "t.npy"))
    one = experiment.run(taught, tmp_path / "one").student
    two = experiment.run(tiny(weight=0.0), tmp_path / "two").student
    assert_same(one.variables, two.variables)
    assert records(tmp_path / "one") == records(tmp_path / "two")


@pytest.mark.parametrize("method", ["ce", "co_teaching"])
def test_the_student_is_saved_without_the_map_and_goes_on_with_it(method, tmp_path, monkeypatch):
    np.savez(tmp_path / "t.npz", features=RNG.normal(size=(256, DIM)))
    values = {STORED: "stored", "teacher": str(tmp_path / "t.npz"), "method": method}
    config = tiny(**values, **{"relation_guided.average": 0.9})
    whole = experiment.run(config, tmp_path / "whole").student
    step, broken = steps.program, []

    def breaks(stage):
        many, run = step(stage)

        def call(state, *rest):
            if int(state.step) == 5:
                broken.append(state)
                raise KeyboardInterrupt
            return run(state, *rest)

        return many, call

    with monkeypatch.context() as patch:
        patch.setattr(steps, "program", breaks)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config, tmp_path / "again")
    assert "node" in broken[0].average[0]
    again = experiment.run(config, tmp_path / "again").student
    assert_same(again.variables, whole.variables)
    assert records(tmp_path / "again") == records(tmp_path / "whole")
    plain = experiment.run(tiny(weight=0.0, method=method), tmp_path / "plain").student
    assert jax.tree.structure(whole.variables) == jax.tree.structure(plain.variables)
    files = [load_file(tmp_path / name / "student.safetensors") for name in ("whole", "plain")]
    assert files[0].keys() == files[1].keys()
    images = PIXELS[:5]
    np.testing.assert_array_equal(
        rmd.load(tmp_path / "again").predict(images), whole.predict(images)
    )


def test_students_see_a_file_of_features_as_stored():
    expected = {"": "online", "run": "online", "t.npz": "stored", "t.npy": "stored"}
    for teacher, seen in expected.items():
        assert resolve(tiny(teacher=teacher)).relation_guided.teacher_features == seen
    with pytest.raises(UserError, match="did you mean online"):
        resolve(tiny(**{"teacher": "t.npz", STORED: "onlin"}))


# --- a network of another architecture


def test_a_run_of_another_network_teaches(tmp_path):
    first = tiny(**{"encoder.widths": (4, 8, 6), "relation_guided.epochs": 0, "modeling": 1})
    experiment.run(first, tmp_path / "first")
    made = setup.setup(resolve(tiny(teacher=str(tmp_path / "first"))), tmp_path / "run")
    taught = teachers.prepared(made)
    assert taught.features.shape == (256, 6)
    own = rmd.ENCODERS["cnn"](widths=(4, 8, 6))
    images = (made.source.images / 255 - made.statistics[0]) / made.statistics[1]
    expected, _ = own.apply(taught.variables, images.astype(np.float32), False)
    np.testing.assert_allclose(taught.features, expected, rtol=1e-3, atol=1e-5)
    lines = []
    for kind in ("online", "stored"):  # without augmentation both see the same
        values = {STORED: kind, "relation_guided.augmentation.name": "none", "epochs": 1}
        experiment.run(tiny(teacher=str(tmp_path / "first"), **values), tmp_path / kind)
        lines.append([records(tmp_path / kind)[-1][term] for term in ("edge", "node")])
    np.testing.assert_allclose(*lines, rtol=1e-3)


# --- arrays and functions


def slow(images):
    """A model of somebody's: means of quarters, and the whole's."""
    x = np.asarray(images, np.float64)[..., 0] / 255
    parts = [x[:, :4, :4], x[:, 4:, :4], x[:, :4, 4:], x[:, 4:, 4:], x]
    return np.stack([part.mean((1, 2)) for part in parts], axis=1)


def test_a_function_is_called_once_for_each_image(tmp_path):
    seen = []

    def model(images):
        assert images.dtype == np.uint8
        seen.append(images.copy())
        found = slow(images)
        images[:] = 0  # what a careless model does harms nobody
        return found

    test = {"test_images": PIXELS[256:], "test_labels": LABELS[:44]}
    mine = train(tmp_path / "mine", teacher=model, overrides={"controls": ("teacher_knn",)}, **test)
    np.testing.assert_array_equal(np.concatenate(seen), PIXELS)
    assert mine.summary["controls"]["teacher_knn"]["test_accuracy"]["last"] is not None
    np.savez(tmp_path / "t.npz", features=slow(PIXELS[:256]), test_features=slow(PIXELS[256:]))
    ways = {
        "file": {"teacher": tmp_path / "t.npz"},
        "arrays": {"teacher": dict(np.load(tmp_path / "t.npz"))},
        "array": {"teacher": slow(PIXELS[:256])},
        "list": {"teacher": slow(PIXELS[:256]).tolist()},
    }
    for name, given in ways.items():
        other = train(tmp_path / name, **given, **test)
        assert_same(other.student.variables, mine.student.variables)
        assert records(tmp_path / name) == records(tmp_path / "mine")
    told = json.loads((tmp_path / "mine" / "config.json").read_text())["teacher"]
    assert told.startswith("<test_features.")
    assert told.endswith(".model>")


def test_tensors_and_batches_of_a_function(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(features, "BATCH", 100)
    source = sources.arrays(PIXELS[:256], LABELS)
    given = lambda x: torch.tensor(slow(x), requires_grad=True)  # noqa: E731
    found, test = features.read(given, source)
    np.testing.assert_allclose(found, slow(PIXELS[:256]), rtol=1e-6)
    assert found.dtype == np.float32
    assert test is None
    np.testing.assert_array_equal(features.read(lambda x: jnp.asarray(slow(x)), source)[0], found)


def test_a_run_goes_on_with_the_same_features_only(tmp_path):
    train(tmp_path / "run", teacher=GIVEN)
    train(tmp_path / "run", teacher=GIVEN.copy())
    changed = GIVEN.copy()
    changed[7, 1] += 1e-3
    with pytest.raises(UserError, match=r"data differs .*teacher is"):
        train(tmp_path / "run", teacher=changed)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (GIVEN[:9], r"teacher must hold finite features \[256, dim\], got float32 of shape \(9, 5"),
        (np.full((256, 3), np.nan), r"teacher must hold finite features"),
        (np.ones((256, 3)), "cannot teach: its features of 256 images are all alike"),
        ({"feature": GIVEN}, "teacher must hold features, and perhaps test_features, got feature"),
        ({"features": GIVEN, "test_features": GIVEN}, r"hold finite test_features \[0, dim\]"),
        (3.0, r"teacher must hold finite features \[256, dim\], got float32 of shape \(\)"),
        (
            lambda x: x,
            r"teacher must give features \[256, dim\] of images .* got shape \[256, 8, 8",
        ),
        (lambda x: slow(x)[1:], r"teacher must give features \[256, dim\] .* got shape \[255, 5\]"),
        (lambda x: 1 / 0, r"teacher must give features of images uint8 .* division by zero"),
        (lambda: 1, r"teacher must give features of images uint8 .* takes 0 positional"),
    ],
)
def test_what_is_no_teacher_is_refused_in_one_line(teacher, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        train(tmp_path / "run", teacher=teacher)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"overrides": {"teacher": "x"}}, r"overrides must not set 'teacher' beside teacher="),
        ({"overrides": {STORED: "online"}}, r"overrides must not set '.*' beside teacher="),
        ({"overrides": {"epochs": 0}}, r"epochs must be > 0 where the teacher is given"),
        ({"overrides": {"relation_guided.init": "teacher"}}, r"teacher must be a network"),
        ({"overrides": {"controls": ("base_from_teacher",)}}, r"teacher must be a network"),
    ],
)
def test_what_cannot_go_with_features_is_refused(given, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", teacher=GIVEN, **given)
    assert not (tmp_path / "run").exists()
